"""How a worker process reports its progress to the controller: one JSON object a line, in a file.

A file rather than a pipe, because torchrun closes inherited pipes and a dead reader must not kill a worker.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Protocol


class Reporter(Protocol):
    """What long work reports to."""

    def progress(self, done: int, total: int, tokens: int = 0) -> None:
        """`done` of `total` pieces so far; `tokens` counts all tokens since the work began."""

    def note(self, text: str) -> None:
        """One line that the user must see (a fallback was used, something was dropped)."""

    def status(self, text: str) -> None:
        """A few words shown beside the progress until the next call (cost so far, a running result)."""


class Silent:
    """Reports to nobody."""

    def progress(self, done: int, total: int, tokens: int = 0) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def status(self, text: str) -> None:
        pass


SILENT = Silent()


class EventFile:
    """The writing end: appends events to `path`. `progress` writes at most five lines a second."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - lives as long as the process
        self._last = 0.0
        self._status = ""

    def send(self, **event: object) -> None:
        self._file.write(json.dumps(event, ensure_ascii=False) + "\n")

    def progress(self, done: int, total: int, tokens: int = 0) -> None:
        now = time.monotonic()
        if done >= total or now - self._last > 0.2:
            self._last = now
            status = {"status": self._status} if self._status else {}
            self.send(event="progress", done=done, total=total, tokens=tokens, **status)

    def note(self, text: str) -> None:
        self.send(event="note", text=text)

    def status(self, text: str) -> None:
        """Is sent with the next line of progress."""
        self._status = text


class Sum:
    """Progress of pieces, each counted from its own start, as progress of the whole."""

    def __init__(self, events: Reporter, total: int) -> None:
        self._events, self._total = events, total
        self._done = self._tokens = 0
        events.progress(0, total)

    def progress(self, done: int, total: int, tokens: int = 0) -> None:
        self._events.progress(self._done + done, self._total, self._tokens + tokens)
        if done == total:
            self._done += done
            self._tokens += tokens

    def add(self, done: int, tokens: int) -> None:
        """A piece that is done as soon as it is reported."""
        self.progress(done, done, tokens)

    def note(self, text: str) -> None:
        self._events.note(text)

    def status(self, text: str) -> None:
        self._events.status(text)
