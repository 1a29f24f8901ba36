"""Shares of a cluster at work on the cells of an experiment: each does one cell at a time, by workers that stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING

from icr.base.errors import StageFailed
from icr.work.beside import Threads
from icr.work.display import Bars, Ended, NamedConsole
from icr.work.machine import Machine
from icr.work.shares import Share

if TYPE_CHECKING:
    from rich.console import Console

LOOK_SECONDS = 1.0
"""Between two looks at whether nodes are there again."""


@dataclass(frozen=True, eq=False)
class Lane:
    """A share and its machine."""

    share: Share
    machine: Machine
    console: NamedConsole
    """Of the machine; has the name of the cell."""

    @property
    def is_lost(self) -> bool:
        """Whether none of its nodes is alive."""
        return not self.share.find_alive()


class Lanes(Threads):
    """As many cells side by side as there are shares."""

    def __init__(
        self, shares: Sequence[Share], console: Console, bars: Bars, open_machine: Callable[[int, Console], Machine]
    ) -> None:
        """
        Args:
            bars: of the console.
            open_machine: (number of the share, its console) → a machine, which then has these nodes alone.
        """
        super().__init__(len(shares))
        self._all, self._free = list[Lane](), SimpleQueue[Lane]()
        for number, share in enumerate(shares, 1):
            named = NamedConsole(console, "", bars)
            self._all.append(Lane(share, open_machine(number, named), named))
            self._all[-1].machine.confine(share, self.ended)
            self._free.put(self._all[-1])

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        super().__exit__(kind, error, tb)
        for lane in self._all:
            lane.machine.stop()

    def start(self, name: str, work: Callable[[Machine], None]) -> Future[None]:
        """As `icr.experiments.cells.Start`. Work that fails where all nodes are lost is begun again on another lane."""

        def do() -> None:
            while True:
                lane = self._take()
                lane.console.name = name
                try:
                    return work(lane.machine)
                except StageFailed as error:
                    if not lane.is_lost or not self._has_others(lane):
                        raise
                    lane.machine.note(f"begun again on other nodes, because its own are lost: {error}")
                finally:
                    self._free.put(lane)

        return self.give(do)

    def _take(self) -> Lane:
        """A lane that is free and not lost, unless all are. Raises Ended."""
        while True:
            lane = self._free.get()
            if not self.ended.is_set() and not (lane.is_lost and self._has_others(lane)):
                return lane
            self._free.put(lane)
            if self.ended.wait(LOOK_SECONDS):
                raise Ended

    def _has_others(self, lane: Lane) -> bool:
        """Whether another one is not lost."""
        return any(not other.is_lost for other in self._all if other is not lane)
