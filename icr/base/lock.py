"""One command at a time in a run folder."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import socket
import sys
import time
from pathlib import Path

from icr.base.errors import UserError
from icr.base.secrets import hide_in

PATIENCE = 10.0
"""Seconds to wait: the workers of a command that was just killed need a moment to end."""


class RunLock:
    """An exclusive flock on RUN/.lock, with the holder's name in the file.

    The kernel drops it when the last process that has `fd` ends, so a SIGKILL leaves no stale lock; workers inherit
    `fd`, so the lock outlives a killed controller for as long as one of its workers could still write.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    holder = os.read(self.fd, 4096).decode(errors="replace")
                    os.close(self.fd)
                    raise UserError(
                        "another command is using this run folder",
                        where=str(path.parent),
                        do=f"wait for it, or stop it: {_describe(holder)}",
                    ) from None
                time.sleep(0.2)
            except OSError as error:
                os.close(self.fd)
                raise UserError(
                    f"this file system has no locks, so two commands could write at once: {error.strerror}",
                    where=str(path),
                    do="use a folder on a file system with flock; on NFS and Lustre this is a mount option",
                ) from error
        os.ftruncate(self.fd, 0)
        mine = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "command": hide_in(shlex.join(sys.argv)),
            "since": time.time(),
        }
        os.pwrite(self.fd, json.dumps(mine).encode(), 0)

    def release(self) -> None:
        os.close(self.fd)


def is_held(path: Path) -> bool:
    """Whether a command is using the run folder of this lock."""
    try:
        fd = os.open(path, os.O_RDWR)
    except OSError:
        return False  # no command ever ran there, or we may not write and so could not hold it either
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # no locks here: see `RunLock`
    finally:
        os.close(fd)
    return False


def _describe(holder: str) -> str:
    try:
        h = json.loads(holder)
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(h["since"]))
        return f"process {h['pid']} on {h['host']}, since {since}: {h['command']}"
    except (ValueError, KeyError):
        return "the process is unknown"
