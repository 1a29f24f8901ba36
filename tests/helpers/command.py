"""The command line as a user calls it, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ICR = [sys.executable, "-m", "icr.commands.main"]


def icr(*arguments: object, cwd: Path | None = None, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `icr` with these arguments; it has to end with `code`, and never with a traceback."""
    done = subprocess.run([*ICR, *map(str, arguments)], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == code, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    return done
