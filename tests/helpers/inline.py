"""Workers inside the test's own process: for tests of what runs when, which need many runs and no second process."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from threading import Event
from typing import Any, get_type_hints

import pytest
from rich.console import Console

from icr.base.errors import StageFailed
from icr.base.progress import EventFile
from icr.engines.skeleton import LOADING
from icr.work.launch import Heard, Watcher, Worker, by_user
from icr.work.machine import Machine
from icr.work.ray_cluster import Nodes
from icr.work.resident import Resident
from icr.work.shares import Share
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


def share_inline(patch: pytest.MonkeyPatch, nodes: int) -> None:
    """After `run_inline`: variants, and cells of an experiment with a cluster, go on side by side as on so many nodes.
    One computes at a time, as they have the process in common."""
    lock, train = LOADING, Machine.train

    class Pool(InlinePool):
        def collect(self, timeout: float) -> list[Any]:
            with lock:
                return super().collect(timeout)

    def pool(self: Machine) -> Pool:
        made: Pool = vars(self).setdefault("inline", Pool(Resident(), Steps()))
        return made

    def train_alone(self: Machine, *of: Any) -> Any:
        with lock, self._display("train") as display:
            display.progress(0, 0)
            return train(self, *of)

    def confine(self: Machine, share: Share, ended: Event) -> None:
        self._ended = ended

    @contextmanager
    def reserve(parts: Sequence[Nodes], gpus_each: int) -> Iterator[list[Share]]:
        yield [Share(None, part) for part in parts]

    patch.setattr(Machine, "pool", property(pool))
    patch.setattr(Machine, "train", train_alone)
    patch.setattr(Machine, "confine", confine)
    patch.setattr(Share, "find_alive", lambda self: [0])
    for module in ("variants", "transfer_cluster"):
        patch.setattr(f"icr.experiments.{module}.reserve", reserve)
    patch.setattr("icr.experiments.variants.find_nodes", lambda variants: Nodes([0] * nodes, [1] * nodes))
    for place in ("icr.work.machine", "icr.experiments.transfer_checks", "icr.experiments.transfer_cluster"):
        patch.setattr(f"{place}.connect", lambda cluster: Nodes([0] * nodes, [1] * nodes))


def ask_inline(patch: pytest.MonkeyPatch) -> None:
    """So is the one that asks beside them, in its thread."""
    patch.setattr("icr.work.beside.LocalPool", lambda *given, **named: InlinePool(Resident(), Steps()))


def _events(folder: Path) -> EventFile:
    folder.mkdir(parents=True, exist_ok=True)
    return EventFile(folder / "inline.events")


def silent() -> Console:
    return Console(file=io.StringIO())
