"""The page of a run that is going on: written again as stages end."""

from __future__ import annotations

import time
from collections.abc import Callable

from icr.base.errors import IcrError
from icr.base.rundir import RunDir

EVERY = 20.0
"""Seconds between two writes at least: a page with its figures takes two to three seconds of a core."""


class LivePage:
    """Writes RUN/report.html when a stage has ended. A page that cannot be written never ends a run."""

    def __init__(self, run: RunDir, note: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._run, self._note, self._clock = run, note, clock
        self._written, self._told = clock(), False

    def update(self) -> None:
        if self._clock() - self._written < EVERY:
            return
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
