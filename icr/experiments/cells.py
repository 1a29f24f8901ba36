"""The cells of an experiment: each done once, in an order; one that fails does not stop those that do not need it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Protocol

from eval.standing import begin, settle_step
from icr.base.errors import IcrError
from icr.base.fields import Fields
from icr.base.files import read_json, write_json
from icr.base.rundir import StageRecord
from icr.rounds.facts import find_versions
from icr.work.steps import Step, recorded, stale

RECORD = "step.json"
DO = "restore the old values and files, or use another --run"
Note = Callable[[str], None]


class Cell(Protocol):
    """One piece of work of an experiment, which keeps its own record."""

    @property
    def name(self) -> str:
        """Such as rm-en, samples-ru."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of cells that have to be done before."""

    def done(self) -> bool:
        """Whether its result is there, from what there is now. Asked when all that it needs is done."""

    def do(self, note: Note) -> None:
        """Do it, or go on with it. Raises IcrError where it fails."""


@dataclass(frozen=True)
class Recorded:
    """A cell with a folder of its own, and its record in step.json."""

    name: str
    folder: Path
    needs: tuple[str, ...]
    step: Callable[[], Step]
    """What it is made from; called when all that it needs is done."""
    work: Callable[[Step], Fields]
    """Does it, and returns its counts."""
    files: tuple[str, ...]
    """What there is when it is done."""
    holds: str
    """What the folder has of it, for messages."""
    again: Callable[[], bool] = field(default=lambda: False)
    """Whether something in a finished cell is worth another try."""
    leaves: tuple[str, ...] | None = None
    """What unfinished work leaves in the folder, where the folder has other things as well."""

    def done(self) -> bool:
        record = read_record(self.folder)
        if record is None or record.state != "done" or not self._is_whole():
            return False
        return not stale(self.step(), record) and not self.again()

    def do(self, note: Note) -> None:
        step = self.step()
        before = settle_step(
            step,
            read_record(self.folder),
            whole=self._is_whole(),
            holds=self.holds,
            where=self.folder,
            remove=self._remove,
            note=note,
            do=DO,
        )
        record = begin(step, before)
        record.versions = find_versions()
        self._write(record)
        with recorded(record, partial(self._write, record)):
            record.counts = self.work(step)

    def _remove(self) -> None:
        names = [""] if self.leaves is None else self.leaves
        for path in (self.folder / name for name in names):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _is_whole(self) -> bool:
        return all((self.folder / name).exists() for name in self.files)

    def _write(self, record: StageRecord) -> None:
        write_json(self.folder / RECORD, record.model_dump(mode="json"))


def read_record(folder: Path) -> StageRecord | None:
    """The record of a cell's folder; None where there is none."""
    file = folder / RECORD
    return StageRecord.model_validate(read_json(file)) if file.is_file() else None


@dataclass
class Outcome:
    """What became of the cells."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, IcrError] = field(default_factory=dict)
    waiting: dict[str, str] = field(default_factory=dict)
    """Cell → the first one that it needs and that is not done."""
    left: list[str] = field(default_factory=list)
    """Not asked for."""


def run_cells(cells: Sequence[Cell], only: str, begin_cell: Note, note: Note) -> Outcome:
    """Do what is not done, in the order of the cells.

    Args:
        only: a pattern of names, such as rm-e*; the others are taken as they are.
        begin_cell: gets the name of each that is worked on.
        note: gets lines for the user.
    """
    found = Outcome()
    for cell in cells:
        missing = [name for name in cell.needs if name not in found.done]
        if missing:
            found.waiting[cell.name] = missing[0]
            continue
        try:
            if not cell.done():
                if not fnmatch(cell.name, only):
                    found.left.append(cell.name)
                    continue
                begin_cell(cell.name)
                cell.do(note)
            found.done.append(cell.name)
        except IcrError as error:
            found.failed[cell.name] = error
            note(f"{cell.name} failed: {error}")
    return found


def list_states(cells: Sequence[Cell]) -> dict[str, str]:
    """Name → `done`, `to do`, or `waits for NAME`, without doing anything."""
    states: dict[str, str] = {}
    for cell in cells:
        missing = [name for name in cell.needs if states.get(name) != "done"]
        states[cell.name] = f"waits for {missing[0]}" if missing else "done" if cell.done() else "to do"
    return states
