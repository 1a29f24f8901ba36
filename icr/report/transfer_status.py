"""How far an experiment of `icr transfer` is: its cells, those that failed, and the next one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.files import read_json
from icr.config.load import load_section
from icr.config.schema import Cluster
from icr.config.transfer import TransferConfig
from icr.experiments.cells import CONFIG, TABLES, read_record
from icr.report.numbers import duration
from icr.work.ray_cluster import connect

State = Literal["done", "running", "interrupted", "failed", "to do", "waits"]
SHOWN: tuple[State, ...] = ("done", "running", "interrupted", "failed", "to do", "waits")


@dataclass(frozen=True)
class CellStatus:
    """One cell; `seconds` are those of work, over all interruptions."""

    cell: str
    state: State
    waits_for: str | None = None
    """The first cell that it needs and that is not done."""
    why: str | None = None
    """What the last command said of a cell that failed."""
    seconds: float = 0.0
    finished: float | None = None

    @property
    def kind(self) -> str:
        """rm, samples, scores, best or judge."""
        return self.cell.partition("-")[0]


@dataclass(frozen=True)
class TransferStatus:
    """How far an experiment is. `next` is the first cell that could be done now; None: there is none."""

    run: str
    cells: list[CellStatus]
    done: int
    failed: list[str]
    next: str | None


def is_transfer(run: Path) -> bool:
    """Whether a folder is the run of an experiment."""
    return (run / CONFIG).is_file()


def transfer_status(run: Path, held: bool) -> TransferStatus:
    """How far the experiment in a folder is, by the file that it was last run with.

    Args:
        held: whether a process holds the run's lock; if none does, a cell that is marked running was interrupted.

    Raises:
        ConfigError, UserError: its file, data or models are not as they were.
    """
    from icr.experiments.transfer import list_transfer  # brings torch, which the status of a run does not need

    config = _reach(load_section(TransferConfig, run / CONFIG, [], {"run": str(run)}))
    states, _ = list_transfer(config, Console(quiet=True))
    said = _read_failures(run)
    cells = [_status(run, name, state, held, said) for name, state in states.items()]
    following = next((cell.cell for cell in cells if cell.state not in ("done", "waits", "running")), None)
    failed = [cell.cell for cell in cells if cell.state == "failed"]
    done = sum(cell.state == "done" for cell in cells)
    return TransferStatus(run.resolve().name, cells, done, failed, following)


def _reach(config: TransferConfig) -> TransferConfig:
    """Without its cluster, if that is gone: what was done is known without it."""
    try:
        if config.clustered:
            connect(config.cluster)
        return config
    except UserError:
        return config.model_copy(update={"cluster": Cluster()})


def _status(run: Path, name: str, state: str, held: bool, said: Fields) -> CellStatus:
    """A cell by what the plan says of it and by its own record."""
    record = read_record(run / "steps" / name)
    seconds, finished = (record.seconds, record.finished) if record else (0.0, None)
    if state == "done":
        return CellStatus(name, "done", seconds=seconds, finished=finished)
    if state != "to do":
        return CellStatus(name, "waits", waits_for=state.removeprefix("waits for "), seconds=seconds)
    if record is not None and record.state == "running":
        return CellStatus(name, "running" if held else "interrupted", seconds=seconds)
    if name in said or (record is not None and record.state == "failed"):
        return CellStatus(name, "failed", why=said.get(name), seconds=seconds)
    return CellStatus(name, "to do", seconds=seconds)


def _read_failures(run: Path) -> Fields:
    """Cell → what the last command that came to its end said of it."""
    file = run / TABLES / "transfer.json"
    found: Fields = read_json(file).get("failed", {}) if file.is_file() else {}
    return found


def transfer_status_json(run: Path, held: bool) -> dict[str, object]:
    """`transfer_status` as plain data."""
    return asdict(transfer_status(run, held))


def transfer_status_table(run: Path, held: bool) -> RenderableType:
    """Kinds of cells × states, the cells that failed or are at work, and what is next."""
    status = transfer_status(run, held)
    states = [state for state in SHOWN if any(cell.state == state for cell in status.cells)]
    title = Text(f"{status.run}: {status.done} of {len(status.cells)} steps done")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("", *states, "time"):
        table.add_column(name, justify="left" if name == "" else "right", no_wrap=True)
    for kind in dict.fromkeys(cell.kind for cell in status.cells):
        own = [cell for cell in status.cells if cell.kind == kind]
        counts = Counter(cell.state for cell in own)
        spent = duration(sum(cell.seconds for cell in own) or None)
        table.add_row(kind, *(str(counts[state] or "") for state in states), spent)
    return Group(table, *map(Text, _lines(status)))


def _lines(status: TransferStatus) -> Sequence[str]:
    lines = [f"{cell.cell}: {cell.state}" for cell in status.cells if cell.state in ("running", "interrupted")]
    lines += [f"{c.cell}: failed{f': {c.why}' if c.why else ''}" for c in status.cells if c.state == "failed"]
    if status.next:
        return [*lines, f"next: {status.next}"]
    busy = any(cell.state == "running" for cell in status.cells)
    return lines if busy else [*lines, "all steps are done"]
