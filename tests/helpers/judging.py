"""What the tests of the judge share: answers on disk, a reporter that remembers, workers inside the test's process."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import pyarrow as pa

from eval.judges.answering import AskTask
from eval.judges.asking import Judging
from eval.judges.base import Judge
from eval.judges.local import LocalJudge
from eval.judges.open import Examiner
from icr.base.files import write_rows
from icr.base.progress import Reporter, Silent
from icr.config.schema import Judge as JudgeConfig
from icr.engines.templates import Template
from icr.rows import RESPONSES
from icr.work.crew import Limits
from icr.work.pool import Done, Event, Failed, Failure, Progress, Shard, Task, WorkerId
from icr.work.resident import Resident
from icr.work.serve import describe_error
from icr.work.shard_queue import Tally, run_shards
from icr.work.shards import ShardFolder, cut_table


def write_answers(folder: Path, lang: str, texts: dict[str, str], *, truncated: Sequence[str] = ()) -> Path:
    rows = [
        {"prompt_id": id, "lang": lang, "sample": 0, "prompt": f"Frage {id}", "response": text, "token_ids": [1],
         "finish_reason": "length" if id in truncated else "stop"}
        for id, text in texts.items()
    ]  # fmt: skip
    write_rows(folder / f"{lang}.parquet", rows, RESPONSES)
    return folder


class Steps(Silent):
    def __init__(self) -> None:
        self.steps, self.notes, self.statuses = list[tuple[int, int]](), list[str](), list[str]()
        self.within = list[tuple[int, int]]()
        """Of single shards, as `Inline`'s workers report it."""

    def progress(self, done: int, total: int, tokens: int = 0) -> None:
        self.steps.append((done, total))

    def note(self, text: str) -> None:
        self.notes.append(text)

    def status(self, text: str) -> None:
        self.statuses.append(text)


class Inline:
    """A `Machine` whose workers are this process: for tests of what is asked, which need no second one."""

    gpus = 0
    gpu_memory = 0.9

    def __init__(self, state: Any = None, watcher: Steps | None = None) -> None:
        self.watcher = watcher or Steps()
        self.pool = InlinePool(state or Resident(), self.watcher)

    def precision(self, asked: str) -> str:
        return "fp32"

    def note(self, text: str) -> None:
        self.watcher.note(text)

    note_once = note

    def fill(
        self, folder: Path, task: Task, shards: Sequence[Shard], label: str, limits: Limits | None = None
    ) -> tuple[list[pa.Table], dict[str, int]]:
        place = ShardFolder(folder)
        if place.missing(shards):
            place.fill(self.pool, task, shards, self.watcher, Tally(), limits)
        return list(place.read(shards)), {}

    def folders(self, models: Collection[str], chat_template: str | None) -> dict[str, str]:
        return {model: model for model in models}

    def run(self, task: Task, table: pa.Table, label: str) -> pa.Table:
        ((_, result),) = run_shards(self.pool, task, cut_table(table, max(1, table.num_rows)), Silent())
        return result

    def work(
        self, task: Task, shards: Sequence[Shard], label: str, limits: Limits | None = None
    ) -> Generator[tuple[Shard, pa.Table], None, None]:
        with closing(run_shards(self.pool, task, shards, self.watcher, limits=limits)) as results:
            yield from results


def _printing_to_its_log() -> AbstractContextManager[object]:
    """What a worker prints is none of the command's output. Threads have one stdout, which is then left alone."""
    main = threading.current_thread() is threading.main_thread()
    return redirect_stdout(io.StringIO()) if main else nullcontext()


class InlinePool:
    """Works on one shard at a time, when it is asked for events. A KeyboardInterrupt of the judge's is the driver's."""

    def __init__(self, state: Any, watcher: Steps) -> None:
        self.state, self.watcher = state, watcher
        self.tasks: list[str] = []
        """Names of the tasks, a shard each, as they came."""
        self._events: list[Event] = []
        self._waiting: list[tuple[WorkerId, int, Task, pa.Table]] = []

    def workers(self, lane: str, wanted: int | None = None) -> list[WorkerId]:
        return [WorkerId(lane, 0)]

    def warm(self, lane: str, modules: Sequence[str]) -> None:
        pass

    def depth(self, lane: str) -> int:
        return 1

    def submit(self, worker: WorkerId, ticket: int, task: Task, table: pa.Table) -> None:
        self._waiting.append((worker, ticket, task, table))

    def collect(self, timeout: float) -> list[Event]:
        """Does the next shard."""
        for worker, ticket, task, table in self._waiting[:1]:
            del self._waiting[0]
            self._events.append(self._work(worker, ticket, task, table))
        events, self._events = self._events, []
        return events

    def _work(self, worker: WorkerId, ticket: int, task: Task, table: pa.Table) -> Event:
        from icr.commands.worker import TASKS

        kind, work = TASKS[task.name]
        self.tasks.append(task.name)
        payload = kind.model_validate_json(task.model_dump_json())
        try:
            with _printing_to_its_log():
                return Done(worker, ticket, work(self.state, payload, table, self.reporter(worker, ticket)))
        except Exception as error:
            described = describe_error(error)
            texts = {key: str(described.get(key, "")) for key in ("what", "where", "do")}
            return Failed(worker, ticket, Failure(**texts, by_user=bool(described["by_user"])))

    def reporter(self, worker: WorkerId, ticket: int) -> Reporter:
        pool = self

        class Passing(Silent):
            def progress(self, done: int, total: int, tokens: int = 0) -> None:
                pool.watcher.within.append((done, total))
                pool._events.append(Progress(worker, ticket, done, total, tokens))

            def note(self, text: str) -> None:
                pool.watcher.note(text)

            def status(self, text: str) -> None:
                pool.watcher.status(text)

        return Passing()

    def kill(self, worker: WorkerId, why: str) -> None:
        pass

    def rest(self, lane: str) -> None:
        pass

    def stop(self, lane: str | None = None) -> None:
        pass


class Keeping(Resident):
    """A worker's state in which everything that judges is one object of the test's."""

    def __init__(self, judge: Judge) -> None:
        super().__init__()
        self._judge = judge

    def keep(self, name: str, make: Callable[[], Any]) -> Any:
        return self._judge if name.startswith("judge ") else super().keep(name, make)


def judged_by(
    judge: Judge, name: str = "scripted", size: int = 4, watcher: Steps | None = None, key: str = "key"
) -> Judging:
    """What asks `judge`, in pieces of `size` questions, in this process."""
    task = AskTask(work=key, examiner=Examiner(config=JudgeConfig(kind="nowhere:Judge"), cache="", ledger=None))
    machine: Any = Inline(Keeping(judge), watcher)
    return Judging(name, task, size, machine, key)


def load_local(folder: Path | str, reporter: Reporter | None = None) -> LocalJudge:
    state = Resident()
    return LocalJudge(state.scorer(str(folder), "fp32"), state.tokenizer(str(folder), Template()), reporter)


def judged_locally(folder: Path | str, watcher: Steps | None = None) -> Judging:
    """A local model as a worker asks it, in this process."""
    config = JudgeConfig(kind="local", model=str(folder))
    machine: Any = Inline(None, watcher)
    return Judging.of(config, str(folder), machine, "key", Path("unused"))
