"""The page of a run that is going on: written again as stages end, with signs of life in between."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable

from icr.base.errors import IcrError
from icr.base.rundir import RunDir
from icr.report.status import BEAT

EVERY = 20.0
"""Seconds between two writes at least: a page with its figures takes two to three seconds of a core."""


class LivePage:
    """Writes RUN/report.html when a stage has ended. A page that cannot be written never ends a run."""

    def __init__(self, run: RunDir, note: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._run, self._note, self._clock = run, note, clock
        self._written, self._told = clock(), False

    def update(self) -> None:
        if self._clock() - self._written >= EVERY:
            self.write()

    def write(self) -> None:
        from icr.report.page import write_report  # imports matplotlib

        try:
            path = write_report(self._run)
        except (IcrError, OSError, ValueError) as error:
            self._note(f"the report could not be written: {error}")
        else:
            if not self._told:
                self._note(f"report so far, updated as the run goes on: {path}")
                self._told = True
        self._written = self._clock()


class Heartbeat:
    """Sets the time of RUN/report.html to now, again and again. A stage may take hours, so this is how the page tells a
    run that was killed from one that is going on. Its bytes stay."""

    def __init__(self, run: RunDir, every: float = BEAT) -> None:
        self._page, self._every, self._stopped = run.report, every, threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._stopped.wait(self._every):
            with contextlib.suppress(OSError):  # no page so far, or a file system that is away for a moment
                os.utime(self._page)

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()
