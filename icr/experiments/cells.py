"""The cells of an experiment: each done once, in an order; one that fails does not stop those that do not need it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
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
Start = Callable[[str, "Callable[[Machine], None]"], Future[None]]
"""(name, work) → how the work ends, to which a thread gives a machine; as `icr.work.beside.Asking.start`."""


class Cell(Protocol):
    """One piece of work of an experiment, which keeps its own record."""

    @property
    def name(self) -> str:
        """Such as rm-en, samples-ru."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of cells that have to be done before."""

    @property
    def asks(self) -> bool:
        """Whether it asks an endpoint and needs no other worker: it may be done while other cells are."""

    @property
    def here(self) -> bool:
        """Whether processes of this machine do it, wherever the workers are."""

    def done(self) -> bool:
        """Whether its result is there, from what there is now. Asked when all that it needs is done."""

    def do(self, note: Note) -> None:
        """Do it, or go on with it. Raises IcrError where it fails."""

    def start(self, start: Start, note: Note) -> Future[None]:
        """`do`, beside other cells. What it is made from is looked at now, by this thread alone."""


@dataclass(frozen=True)
class Recorded:
    """A cell with a folder of its own, and its record in step.json."""

    name: str
    folder: Path
    needs: tuple[str, ...]
    machine: Machine
    step: Callable[[], Step]
    """What it is made from; called when all that it needs is done."""
    work: Callable[[Step, Machine], Fields]
    """Does it on a machine, which is its own or one that goes on beside others, and returns its counts."""
    files: tuple[str, ...]
    """What there is when it is done."""
    holds: str
    """What the folder has of it, for messages."""
    again: Callable[[], bool] = field(default=lambda: False)
    """Whether something in a finished cell is worth another try."""
    leaves: tuple[str, ...] | None = None
    """What unfinished work leaves in the folder, where the folder has other things as well."""
    asks: bool = False
    here: bool = False

    def done(self) -> bool:
        record = read_record(self.folder)
        if record is None or record.state != "done" or not self._is_whole():
            return False
        return not stale(self.step(), record) and not self.again()

    def do(self, note: Note) -> None:
        self._do(self.step(), self.machine, note)

    def start(self, start: Start, note: Note) -> Future[None]:
        step = self.step()
        return start(self.name, lambda machine: self._do(step, machine, note))

    def _do(self, step: Step, machine: Machine, note: Note) -> None:
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
            record.counts = self.work(step, machine)

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

    def knows(self, name: str) -> bool:
        return any(name in of for of in (self.done, self.failed, self.waiting, self.left))

    def sorted_as(self, cells: Sequence[Cell]) -> Outcome:
        """Each of them in the order of the cells."""
        names = [cell.name for cell in cells]
        return Outcome(
            [name for name in names if name in self.done],
            {name: self.failed[name] for name in names if name in self.failed},
            {name: self.waiting[name] for name in names if name in self.waiting},
            [name for name in names if name in self.left],
        )


def run_cells(
    cells: Sequence[Cell],
    only: str,
    begin_cell: Note,
    note: Note,
    ask: Start | None = None,
    before: Outcome | None = None,
) -> Outcome:
    """Do what is not done, in the order of the cells.

    Args:
        only: a pattern of names, such as rm-e*; the others are taken as they are.
        begin_cell: gets the name of each that is worked on, and whether that is beside the next ones.
        note: gets lines for the user.
        ask: takes the cells that may be done beside the next ones; None: one cell at a time.
        before: what became of some of the cells already.
    """
    run = _Run(only, begin_cell, note, ask, before or Outcome())
    for cell in cells:
        if not run.found.knows(cell.name):
            run.take(cell)
    run.settle(list(run.started))
    return run.found.sorted_as(cells)


def run_side_by_side(
    cells: Sequence[Cell],
    only: str,
    begin_cell: Note,
    note: Note,
    ask: Start,
    start: Start,
    lanes: int,
    before: Outcome | None = None,
) -> Outcome:
    """As `run_cells`, with several cells at a time, each as soon as all that it needs is done.

    Args:
        start: takes all cells that do not only ask.
        lanes: how many of them it is given at a time.
    """
    run, looked, busy = _Run(only, begin_cell, note, ask, before or Outcome()), set[str](), set[str]()
    left = {cell.name: cell for cell in cells if not run.found.knows(cell.name)}
    while left or run.started:
        for name, cell in list(left.items()):
            if any(need in left or need in run.started for need in cell.needs):
                continue
            if name not in looked and not run.look(cell):
                del left[name]
                continue
            looked.add(name)
            if cell.asks:
                del left[name]
                run.start(cell, ask, " (while the next steps are done)")
            elif len(busy & run.started.keys()) < lanes:
                del left[name]
                busy.add(name)
                run.start(cell, start)
        ended = wait(run.started.values(), return_when=FIRST_COMPLETED).done
        run.settle([name for name, work in run.started.items() if work in ended])
    return run.found.sorted_as(cells)


@dataclass
class _Run:
    """One call of `run_cells`."""

    only: str
    begin_cell: Note
    note: Note
    ask: Start | None
    found: Outcome = field(default_factory=Outcome)
    started: dict[str, Future[None]] = field(default_factory=dict)
    """Cells that are done beside others, until they are settled."""

    def take(self, cell: Cell) -> None:
        """Do a cell, or have it done beside the next ones."""
        self.settle([name for name, work in self.started.items() if work.done() or name in cell.needs])
        if not self.look(cell):
            return
        if self.ask and cell.asks:
            self.start(cell, self.ask, " (while the next steps are done)")
            return
        self.begin_cell(cell.name)
        with self._catch(cell):
            cell.do(self.note)
            self.found.done.append(cell.name)

    def look(self, cell: Cell) -> bool:
        """Whether a cell is to be done now; if it is not, the outcome has it."""
        missing = [name for name in cell.needs if name not in self.found.done]
        if missing:
            self.found.waiting[cell.name] = missing[0]
            return False
        with self._catch(cell):
            if cell.done():
                self.found.done.append(cell.name)
            elif fnmatch(cell.name, self.only):
                return True
            else:
                self.found.left.append(cell.name)
        return False

    def start(self, cell: Cell, start: Start, how: str = "") -> None:
        """Have a cell done beside others."""
        self.begin_cell(f"{cell.name}{how}")
        with self._catch(cell):
            self.started[cell.name] = cell.start(start, self.note)
            self.started[cell.name].add_done_callback(partial(self._tell_failure, cell.name))

    def settle(self, names: Sequence[str]) -> None:
        """Wait for cells that are done beside others. Raises what no cell should end with."""
        for name in names:
            try:
                self.started.pop(name).result()
                self.found.done.append(name)
            except IcrError as error:
                self.found.failed[name] = error

    @contextmanager
    def _catch(self, cell: Cell) -> Iterator[None]:
        try:
            yield
        except IcrError as error:
            self.found.failed[cell.name] = error
            self.note(f"{cell.name} failed: {error}")

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
