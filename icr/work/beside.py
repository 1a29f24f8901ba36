"""Work in a thread of its own, beside what the driver does next: it asks an endpoint and needs no other worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from types import TracebackType

from icr.work import pool
from icr.work.local_pool import Lane, LocalPool
from icr.work.machine import Machine

Ask = Callable[[str, Callable[[Machine], None]], Future[None]]
"""(title, work) → how the work ends. It is given the machine as it may use it; the title is before what is shown of its
progress."""


class Ended(Exception):
    """The work was asked to end; what it had finished is kept."""


class Asker(LocalPool):
    """One process that asks, until it is asked to end."""

    def __init__(self, folder: Path, ended: Event) -> None:
        super().__init__(folder, {"asker": Lane(1)}, log_name="beside-")  # the run's own pool has an asker as well
        self._ended = ended

    def collect(self, timeout: float) -> list[pool.Event]:
        """See `Pool.collect`, which every caller comes back to again and again. Raises Ended."""
        if self._ended.is_set():
            raise Ended
        return super().collect(timeout)


@contextmanager
def ask_beside(machine: Machine) -> Iterator[Ask]:
    """Take any number of pieces of work, which are done one after the other. At the end of the block what is under way
    ends at once, and the rest is not begun: wait for the work before."""
    ended, thread = Event(), ThreadPoolExecutor(1, "beside")
    asker = Asker(machine.folder, ended)
    try:
        yield lambda title, work: thread.submit(work, machine.beside(asker, title))
    finally:
        ended.set()
        thread.shutdown(cancel_futures=True)
        asker.stop()


class Beside:
    """One piece of work at a time. It ends with the block: well, or at once where the block is left by an exception."""

    def __init__(
        self,
        machine: Machine,
        then: Callable[[], None],
        earlier: Callable[[], None] = lambda: None,
        *,
        outlasts: bool = False,
    ) -> None:
        """
        Args:
            then: called by who waits for the work, once it has ended well.
            earlier: waits for such work of another run, so that one asks at a time. It raises nothing of that run.
            outlasts: whether the last work of this run may go on beside what comes after the run.
        """
        self._machine, self._then, self.clear, self.outlasts = machine, then, earlier, outlasts
        self._ended, self._thread = Event(), ThreadPoolExecutor(1, "beside")
        self._work: Future[None] | None = None

    def __enter__(self) -> Beside:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            if error is None:
                self.wait()
        finally:
            self._ended.set()
            self._thread.shutdown()

    @property
    def is_asking(self) -> bool:
        """Whether work has begun and not been waited for."""
        return self._work is not None

    def start(self, title: str, work: Callable[[Machine], None]) -> None:
        """Begin work that is given the machine as it may use it; `title` is before what it shows of its progress."""
        assert self._work is None
        self._work = self._thread.submit(self._run, title, work)

    def _run(self, title: str, work: Callable[[Machine], None]) -> None:
        own = Asker(self._machine.folder, self._ended)
        try:
            work(self._machine.beside(own, title))
        finally:
            own.stop()

    def look(self) -> None:
        """Raise what work that has ended has failed with."""
        if self._work and self._work.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the work's end. Raises what it has failed with."""
        if self._work:
            work, self._work = self._work, None
            work.result()
            self._then()
