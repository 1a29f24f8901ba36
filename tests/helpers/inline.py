"""Workers inside the test's own process: for tests of what runs when, which need many runs and no second process."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from icr.base.progress import EventFile
from icr.work.job import Job
from icr.work.machine import Machine


def run_inline(patch: pytest.MonkeyPatch) -> list[str]:
    """Make `Machine` run its jobs in this process; returns the list that takes the names of the tasks as they run."""
    tasks: list[str] = []

    def work(self: Machine, job: Job, label: str, **options: Any) -> list[dict[str, Any]]:
        from icr.commands.worker import TASKS

        tasks.append(job.task)
        return [TASKS[job.task](job, 0, _events(self.folder))]

    def train(self: Machine, spec: Any, label: str) -> dict[str, Any]:
        from loops.train import run

        tasks.append("train")
        return run(spec, _events(self.folder))

    patch.setattr(Machine, "work", work)
    patch.setattr(Machine, "train", train)
    return tasks


def _events(folder: Path) -> EventFile:
    folder.mkdir(parents=True, exist_ok=True)
    return EventFile(folder / "inline.events")


def silent() -> Console:
    return Console(file=io.StringIO())
