"""Workers inside the test's own process: for tests of what runs when, which need many runs and no second process."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from threading import Event
from typing import Any, get_type_hints

import pytest
from rich.console import Console

from icr.base.errors import StageFailed
from icr.base.progress import EventFile
from icr.work.beside import Ended
from icr.work.launch import Heard, Watcher, Worker, by_user
from icr.work.machine import Machine
from icr.work.resident import Resident
from prompts.translator import serve
from tests.helpers.judging import InlinePool, Steps


def run_inline(patch: pytest.MonkeyPatch, *, trainings: bool = True) -> list[str]:
    """Make every `Machine` work in this process; returns the list that takes the names of the tasks, one a shard.

    Args:
        trainings: False leaves them as processes of their own.
    """
    pool = InlinePool(Resident(), Steps())

    def train(self: Machine, spec: Any, label: str, name: str | None = None) -> dict[str, Any]:
        pool.tasks.append("train")
        counts: dict[str, Any] = import_module(spec.program).run(spec, _events(self.folder))
        return counts

    patch.setattr(Machine, "pool", pool)
    if trainings:
        patch.setattr(Machine, "train", train)
    translate_inline(patch)
    return pool.tasks


def translate_inline(patch: pytest.MonkeyPatch) -> None:
    """So do jobs of translation, whose worker is `python -m MODULE JOB EVENTS`."""

    def work(workers: Sequence[Worker], watcher: Watcher, keep_fds: Sequence[int] = ()) -> None:
        for worker in workers:
            heard = Heard()
            worker.events.write_text("")
            with pytest.MonkeyPatch.context() as own, open(worker.log, "a") as log:
                own.setattr(sys, "argv", worker.argv[2:])
                own.setattr("prompts.translator.die_with_parent", lambda: None)
                run = import_module(worker.argv[2]).run
                with redirect_stdout(log), redirect_stderr(log):
                    serve(get_type_hints(run)["job"], run)
            heard.take(worker.events.read_text(), watcher)
            if heard.error:
                raise by_user(heard.error, worker.events.parent) or StageFailed(heard.error["text"])

    patch.setattr("icr.work.translating.run_workers", work)


def ask_inline(patch: pytest.MonkeyPatch) -> None:
    """So is the one that asks beside them, in its thread."""

    class Asker(InlinePool):
        def __init__(self, folder: Path, ended: Event) -> None:
            super().__init__(Resident(), Steps())
            self.ended = ended

        def collect(self, timeout: float) -> list[Any]:
            if self.ended.is_set():
                raise Ended
            return super().collect(timeout)

    patch.setattr("icr.work.beside.Asker", Asker)


def _events(folder: Path) -> EventFile:
    folder.mkdir(parents=True, exist_ok=True)
    return EventFile(folder / "inline.events")


def silent() -> Console:
    return Console(file=io.StringIO())
