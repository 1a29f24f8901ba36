"""The cells of an experiment: each done once, in an order; one that fails does not stop those that do not need it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from eval.standing import begin, settle_step
from icr.base.errors import IcrError
from icr.base.fields import Fields
from icr.base.files import read_json, write_json
from icr.base.rundir import StageRecord
from icr.rounds.facts import find_versions
from icr.work.steps import Step, recorded, stale

if TYPE_CHECKING:
    from icr.work.machine import Machine

CONFIG, TABLES = "experiment.yaml", "tables"
"""In an experiment's run folder: its file, as resolved, and the folder of its results."""
RECORD = "step.json"
DO = "restore the old values and files, or use another --run"
Note = Callable[[str], None]
Ask = Callable[[str, "Callable[[Machine], None]"], Future[None]]
"""(title, work) → how the work ends; as `icr.work.beside.Asking.start`."""


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
    beside: Callable[[Step, Machine], Fields] | None = None
    """`work` with a machine that only asks, where no other is needed: it may be done while other cells are."""

    def done(self) -> bool:
        record = read_record(self.folder)
        if record is None or record.state != "done" or not self._is_whole():
            return False
        return not stale(self.step(), record) and not self.again()

    def do(self, note: Note) -> None:
        self._do(self.step(), self.work, note)

    def start(self, ask: Ask, note: Note) -> Future[None]:
        """`do`, beside other cells. What it is made from is looked at now, by this thread alone."""
        assert self.beside is not None
        step, work = self.step(), self.beside
        return ask(self.name, lambda machine: self._do(step, lambda step: work(step, machine), note))

    def _do(self, step: Step, work: Callable[[Step], Fields], note: Note) -> None:
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
            record.counts = work(step)

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


def run_cells(cells: Sequence[Cell], only: str, begin_cell: Note, note: Note, ask: Ask | None = None) -> Outcome:
    """Do what is not done, in the order of the cells.

    Args:
        only: a pattern of names, such as rm-e*; the others are taken as they are.
        begin_cell: gets the name of each that is worked on, and whether that is beside the next ones.
        note: gets lines for the user.
        ask: takes the cells that may be done beside the next ones; None: one cell at a time.
    """
    run = _Run(only, begin_cell, note, ask)
    for cell in cells:
        run.take(cell)
    run.settle(list(run.asked))
    found, places = run.found, {cell.name: place for place, cell in enumerate(cells)}
    found.done.sort(key=places.__getitem__)
    found.failed = {name: found.failed[name] for name in sorted(found.failed, key=places.__getitem__)}
    return found


@dataclass
class _Run:
    """One call of `run_cells`."""

    only: str
    begin_cell: Note
    note: Note
    ask: Ask | None
    found: Outcome = field(default_factory=Outcome)
    asked: dict[str, Future[None]] = field(default_factory=dict)
    """Cells that are done beside others, until they are settled."""

    def take(self, cell: Cell) -> None:
        """Do a cell, or have it done beside the next ones."""
        found = self.found
        self.settle([name for name, work in self.asked.items() if work.done() or name in cell.needs])
        missing = [name for name in cell.needs if name not in found.done]
        if missing:
            found.waiting[cell.name] = missing[0]
            return
        try:
            if not cell.done():
                if not fnmatch(cell.name, self.only):
                    found.left.append(cell.name)
                    return
                if self.ask and isinstance(cell, Recorded) and cell.beside:
                    self.begin_cell(f"{cell.name} (while the next steps are done)")
                    self.asked[cell.name] = cell.start(self.ask, self.note)
                    self.asked[cell.name].add_done_callback(partial(self._tell_failure, cell.name))
                    return
                self.begin_cell(cell.name)
                cell.do(self.note)
            found.done.append(cell.name)
        except IcrError as error:
            found.failed[cell.name] = error
            self.note(f"{cell.name} failed: {error}")

    def settle(self, names: Sequence[str]) -> None:
        """Wait for cells that are done beside others. Raises what no cell should end with."""
        for name in names:
            try:
                self.asked.pop(name).result()
                self.found.done.append(name)
            except IcrError as error:
                self.found.failed[name] = error

    def _tell_failure(self, name: str, work: Future[None]) -> None:
        """As soon as it has failed, while others go on."""
        error = None if work.cancelled() else work.exception()
        if isinstance(error, IcrError):
            self.note(f"{name} failed: {error}")


def list_states(cells: Sequence[Cell]) -> dict[str, str]:
    """Name → `done`, `to do`, or `waits for NAME`, without doing anything."""
    states: dict[str, str] = {}
    for cell in cells:
        missing = [name for name in cell.needs if states.get(name) != "done"]
        states[cell.name] = f"waits for {missing[0]}" if missing else "done" if cell.done() else "to do"
    return states
