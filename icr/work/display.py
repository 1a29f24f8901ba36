"""What the user sees during a run: a bar on a terminal, otherwise a line now and then. All of it goes to stderr."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

PLAIN_SECONDS = 15.0
"""Without a terminal, a line of progress at most this often."""


class Ended(Exception):
    """The work was asked to end; what it had finished is kept."""


class NamedConsole(Console):
    """A console on which each line begins with a name: of one of several runs that go on at the same time."""

    def __init__(self, console: Console, name: str, bars: Bars) -> None:
        """`bars`: of the console, for all runs."""
        super().__init__(file=console.file, force_terminal=console.is_terminal, quiet=console.quiet)
        self.console, self.name, self.bars = console, name, bars

    def print(self, *objects: Any, **how: Any) -> None:
        self.console.print(Text(f"{self.name}:", style="bold"), *objects, **how)


class Bars:
    """The bars of one terminal: pieces of work that go on at the same time have one each, one below the other."""

    def __init__(self, console: Console) -> None:
        self._console, self._lock = console, threading.Lock()
        self._bars: Progress | None = None

    def add(self, label: str) -> tuple[Progress, TaskID] | None:
        """A bar, and what it belongs to; None where there is no terminal."""
        if not self._console.is_terminal:
            return None
        with self._lock:
            if self._bars is None:
                self._bars = Progress(
                    TextColumn("  {task.description}"),
                    BarColumn(bar_width=24),
                    MofNCompleteColumn(),
                    TextColumn("{task.fields[rate]}"),
                    TimeElapsedColumn(),
                    TextColumn("left"),
                    TimeRemainingColumn(),
                    console=self._console,
                    transient=True,
                )
                self._bars.start()
            return self._bars, self._bars.add_task(label, total=None, rate="loading")

    def remove(self, task: TaskID) -> None:
        """Take a bar away; without any, the terminal is left alone."""
        with self._lock:
            assert self._bars
            if len(self._bars.tasks) == 1:
                self._bars.stop()
                self._bars = None
            else:
                self._bars.remove_task(task)


class StageDisplay:
    """Progress of one piece of work: done/total, tokens a second, time left."""

    def __init__(
        self,
        console: Console,
        label: str,
        noted: set[str] | None = None,
        bars: Bars | None = None,
        ended: threading.Event | None = None,
    ) -> None:
        """
        Args:
            noted: what was said in this run already, and is not said again.
            bars: of the terminal, where other work may have one as well.
            ended: set once the work is to end.
        """
        self._console, self._label, self._noted = console, label, set() if noted is None else noted
        self._last = time.monotonic()
        self._first: tuple[float, int, int] | None = None
        """When the first report came, and the pieces and tokens that were done by then."""
        self._status = ""
        self._bars, self._ended = bars or Bars(console), ended
        self._bar: tuple[Progress, TaskID] | None = None

    def __enter__(self) -> StageDisplay:
        name = f"{self._console.name}: " if isinstance(self._console, NamedConsole) else ""
        self._bar = self._bars.add(f"{name}{self._label}")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar:
            self._bars.remove(self._bar[1])

    def progress(self, done: int, total: int, tokens: int = 0) -> None:
        """Whoever waits for workers calls this again and again. Raises Ended."""
        if self._ended and self._ended.is_set():
            raise Ended
        now = time.monotonic()
        if not total:
            return
        # loading is over when the first report comes; how long the work that it reports took is not known
        began, done_before, tokens_before = self._first = self._first or (now, done, tokens)
        seconds, did = now - began, done - done_before
        rate = f"{(tokens - tokens_before) / seconds:.0f} tok/s" if tokens > tokens_before and seconds > 0 else ""
        rate = ", ".join(filter(None, (rate, self._status)))
        if self._bar:
            bars, task = self._bar
            bars.update(task, completed=done, total=total, rate=rate)
        elif done < total and now - self._last > PLAIN_SECONDS:
            self._last = now
            left = f"{seconds * (total - done) / did:.0f} s left" if did > 0 and seconds > 0 else ""
            words = " ".join(filter(None, (f"{done}/{total}", ", ".join(filter(None, (rate, left))))))
            self._console.print(f"  {self._label}: {words}", highlight=False)

    def status(self, text: str) -> None:
        self._status = text

    def note(self, text: str) -> None:
        if text in self._noted:
            return
        self._noted.add(text)
        self._console.print(f"  note: {text}", highlight=False, style="yellow", markup=False)
