"""The cells of `icr transfer` on a Ray cluster: each on nodes of its own, as many side by side as there is room for.

A training takes `train.nodes`, and whatever else a cell does uses all nodes that it is given. So the cluster is cut
once, into as many shares as there are cells that can go on at one time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from icr.base.errors import IcrError
from icr.config.transfer import TransferConfig
from icr.experiments.cell_lanes import Lanes
from icr.experiments.cells import Cell, Outcome, run_cells, run_side_by_side
from icr.work.beside import Asking
from icr.work.machine import Machine
from icr.work.ray_cluster import Nodes, connect
from icr.work.shares import Share, reserve, split_nodes

if TYPE_CHECKING:
    from rich.console import Console

SHARES = "shares"
"""RUN/shares/N has the logs of what was done on the N-th share of the nodes."""


@dataclass(frozen=True)
class Room:
    """Nodes on which cells go on side by side."""

    config: TransferConfig
    nodes: Nodes

    @property
    def gpus_each(self) -> int:
        """Of an engine."""
        return engine_gpus(self.config) if self.nodes.most else 0

    def split(self, cells: int) -> list[Nodes]:
        """Nodes for each of as many cells as can go on side by side; [] for fewer than two."""
        asked = self.config.cluster.workers
        each = max(train.nodes for train in self.config.trainings)
        return split_nodes(self.nodes, self.gpus_each, None if asked == "all" else asked, cells, each)


def engine_gpus(config: TransferConfig) -> int:
    """GPUs of an engine, where there are any."""
    return config.align.best_of_n.tensor_parallel if config.align else 1


def find_room(config: TransferConfig) -> Room | None:
    """None without a cluster, and where cells take turns: a launcher places trainings elsewhere, and nodes without the
    run folder cannot train.

    Raises:
        UserError: as `icr.work.ray_cluster.connect`.
    """
    launched = any(train.launcher for train in config.trainings)
    if not config.clustered or config.cluster.models or launched:
        return None
    return Room(config, connect(config.cluster))


def count_side_by_side(cells: Sequence[Cell], only: str = "*") -> int:
    """How many of the cells that shares have to do can go on at one time: the most that are equally many steps away
    from what is done."""
    away = dict[str, int]()
    for cell in cells:
        if not (cell.asks or cell.here) and fnmatch(cell.name, only) and not _is_done(cell):
            away[cell.name] = 1 + max((away.get(need, 0) for need in cell.needs), default=0)
    return max(Counter(away.values()).values(), default=0)


def _is_done(cell: Cell) -> bool:
    try:
        return cell.done()
    except IcrError:
        return False  # whoever does the cells says what is wrong with it


@dataclass(frozen=True)
class Work:
    """The cells of one command."""

    config: TransferConfig
    run: Path
    cells: Sequence[Cell]
    only: str
    machine: Machine
    """With all nodes."""
    console: Console
    keep_fds: Sequence[int]

    def begin(self, name: str) -> None:
        self.console.print(f"[bold]{name}[/bold]", highlight=False)

    def do(self) -> Outcome:
        """Do what is not done: side by side, or in order where there is room for one cell at a time.

        Raises:
            UserError: as `find_room`.
        """
        room, before = find_room(self.config), None
        parts = room.split(count_side_by_side(self.cells, self.only)) if room else []
        with Asking() as asking:
            if room and parts:
                # before the nodes are reserved: they would be idle meanwhile
                before = run_cells([cell for cell in self.cells if cell.here], self.only, self.begin, self.machine.note)
                self.machine.stop()
                with reserve(parts, room.gpus_each) as shares:
                    if shares:
                        return self._do_side_by_side(shares, asking, before)
                self.machine.note("steps take turns, because not all nodes are free")
            ask = partial(asking.start, self.machine)
            return run_cells(self.cells, self.only, self.begin, self.machine.note, ask, before)

    def _do_side_by_side(self, shares: Sequence[Share], asking: Asking, before: Outcome) -> Outcome:
        nodes = ", ".join(str(len(share.nodes.gpus)) for share in shares)
        self.console.print(f"{len(shares)} steps go on side by side; nodes of each: {nodes}", highlight=False)
        ask, note = partial(asking.start, self.machine), self.machine.note
        with Lanes(shares, self.console, self.machine.bars, self._open) as lanes:
            count = len(shares)
            return run_side_by_side(self.cells, self.only, self.begin, note, ask, lanes.start, count, before)

    def _open(self, number: int, console: Console) -> Machine:
        folder, parallel = self.run / SHARES / str(number), engine_gpus(self.config)
        return Machine(folder, console, self.keep_fds, parallel, cluster=self.config.cluster)
