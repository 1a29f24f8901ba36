"""Workers inside the test's own process: for tests of what runs when, which need many runs and no second process."""

from __future__ import annotations

import io
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from icr.base.progress import EventFile
from icr.work.machine import Machine
from icr.work.resident import Resident
from tests.helpers.judging import InlinePool, Steps


def run_inline(patch: pytest.MonkeyPatch) -> list[str]:
    """Make every `Machine` work in this process; returns the list that takes the names of the tasks, one a shard."""
    pool = InlinePool(Resident(), Steps())

    def train(self: Machine, spec: Any, label: str, name: str | None = None) -> dict[str, Any]:
        pool.tasks.append("train")
        counts: dict[str, Any] = import_module(spec.program).run(spec, _events(self.folder))
        return counts

    patch.setattr(Machine, "pool", pool)
    patch.setattr(Machine, "train", train)
    return pool.tasks


def ask_inline(patch: pytest.MonkeyPatch) -> None:
    """So is the one that asks beside them, in its thread."""
    patch.setattr("icr.work.beside.LocalPool", lambda folder, lanes: InlinePool(Resident(), Steps()))


def _events(folder: Path) -> EventFile:
    folder.mkdir(parents=True, exist_ok=True)
    return EventFile(folder / "inline.events")


def silent() -> Console:
    return Console(file=io.StringIO())
