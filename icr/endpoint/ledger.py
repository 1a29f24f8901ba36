"""What one command has spent at endpoints: one account for all of its rounds, benchmarks, variants and workers."""

from __future__ import annotations

import atexit
import os
import tempfile
from functools import cache
from pathlib import Path


class Ledger:
    """Dollars, in a file that several processes add to and none shortens."""

    def __init__(self, path: Path | None = None) -> None:
        """`path`: None is an account of this object alone."""
        self._path, self._read, self._sum = path, 0, 0.0

    def add(self, usd: float) -> None:
        if self._path is None:
            self._sum += usd
            return
        with self._path.open("ab") as file:
            file.write(f"{usd:.12g}\n".encode())

    def sum(self) -> float:
        """All that was added so far, by whichever process."""
        if self._path is not None and self._path.stat().st_size > self._read:
            with self._path.open("rb") as file:
                file.seek(self._read)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._read += len(whole)
            self._sum += sum(map(float, whole.split()))
        return self._sum


@cache
def command_ledger() -> Path:
    """The file of this command, made in the process that starts its workers; it goes when that process ends."""
    handle, name = tempfile.mkstemp(prefix="icr-spent-")
    os.close(handle)
    path = Path(name)
    atexit.register(path.unlink, missing_ok=True)
    return path
