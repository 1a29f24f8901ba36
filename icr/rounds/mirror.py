"""`--mirror URI`: the files of a run are copied to a bucket after each stage, so that a lost machine loses little."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from icr.base.bucket import Bucket
from icr.base.rundir import RunDir

LEFT_OUT = ("checkpoints", "best", "shards", "jobs")
"""Folders of unfinished work, which is deleted when it is done."""

Stamp = tuple[int, int]
"""Bytes, and when it was written, in nanoseconds."""


class Mirror:
    """What is there already, and no older than here, is not copied again. Nothing is deleted there."""

    def __init__(self, run: RunDir, uri: str, say: Callable[[str], None]) -> None:
        """
        Args:
            say: shows the user a line.

        Raises:
            UserError: the bucket cannot be reached.
        """
        self._run, self._uri, self._say = run, uri, say
        self._bucket = Bucket(uri, "--mirror")
        self._copied: dict[str, Stamp] = {}

    def update(self) -> None:
        """Copy what is new. A failure ends no run: it is said, and the next call tries again."""
        try:
            there = self._bucket.list()
            for name, stamp in list(self._files()):
                old = there.get(name)
                if self._copied.get(name) == stamp:
                    continue
                if name not in self._copied and old and old.size == stamp[0] and old.written >= stamp[1]:
                    self._copied[name] = stamp
                    continue
                self._bucket.put(self._run.path / name, name)
                self._copied[name] = stamp
        except OSError as error:
            self._say(f"note: the copy at {self._uri} is not complete: {str(error)[:300]}; it is tried again later")

    def _files(self) -> Iterator[tuple[str, Stamp]]:
        for path in sorted(self._run.path.rglob("*")):
            parts = path.relative_to(self._run.path).parts
            if path == self._run.lock or any(part.startswith(".") or part in LEFT_OUT for part in parts):
                continue
            if path.is_file():
                found = path.stat()
                yield str(Path(*parts)), (found.st_size, found.st_mtime_ns)
