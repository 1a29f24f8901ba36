"""Work in threads of its own, beside what the driver does next. It ends with the block that it was begun in."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from threading import Event
from types import TracebackType
from typing import TYPE_CHECKING, Self

from icr.work.local_pool import Lane, LocalPool

if TYPE_CHECKING:
    from icr.work.machine import Machine


class Threads:
    """`count` pieces of work at a time; the others wait for their turn, in the order in which they were given."""

    def __init__(self, count: int) -> None:
        self.ended = Event()
        """Set once the work is to end. It is for `Machine`, whose waiting then raises `icr.work.display.Ended`."""
        self._threads = ThreadPoolExecutor(count)
        self._given: list[Future[None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """What is under way ends at once, and the rest is not begun: wait for the work before."""
        self.ended.set()
        self._threads.shutdown(cancel_futures=True)

    def give(self, work: Callable[[], None]) -> Future[None]:
        """Begin work, as soon as a thread is free."""
        self._given.append(self._threads.submit(work))
        return self._given[-1]

    def finish(self) -> None:
        """Wait for all work that was given. Raises what a piece of it fails with, at once."""
        for given in wait(self._given, return_when=FIRST_EXCEPTION).done:
            given.result()


class Asking(Threads):
    """One piece of work at a time that asks an endpoint, by a process of its own, and needs no other worker."""

    def __init__(self) -> None:
        super().__init__(1)

    def start(self, machine: Machine, title: str, work: Callable[[Machine], None]) -> Future[None]:
        """Begin work that is given the machine as it may use it; `title` is before what is shown of its progress."""

        def ask() -> None:
            # the run's own pool has an asker as well: its log is another file
            asker = LocalPool(machine.folder, {"asker": Lane(1)}, log_name="beside-")
            try:
                work(machine.beside(asker, title, self.ended))
            finally:
                asker.stop()

        return self.give(ask)

    def wait(self) -> None:
        """Wait until all work has ended that was begun. Raises nothing of it."""
        wait(list(self._given))
