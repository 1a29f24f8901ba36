"""Starts worker processes and watches them: progress, errors, and an end together with the parent."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from icr.base.errors import StageFailed, UserError
from icr.base.process import make_environment
from icr.work.causes import find_cause, last_lines, read_from
from icr.work.runner import Counts

POLL_SECONDS = 0.1
LOW_DISK = 32 * 2**20


class Watcher(Protocol):
    """What is reported while workers run."""

    def progress(self, done: int, total: int, tokens: int) -> None: ...

    def note(self, text: str) -> None: ...

    def status(self, text: str) -> None: ...


@dataclass
class Worker:
    """One process: its command, its additions to the environment, and where it reports and logs."""

    argv: list[str]
    events: Path
    log: Path
    env: dict[str, str] = field(default_factory=dict)


class Heard:
    """What a process has reported so far, line by line."""

    def __init__(self) -> None:
        self.done = self.total = self.tokens = 0
        self.result: Counts | None = None
        self.error: dict[str, str] | None = None
        self._rest = ""

    def take(self, text: str, watcher: Watcher) -> None:
        """Take in what was added to its events; the last line may be half there."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            event = json.loads(line)
            kind = event["event"]
            if kind == "progress":
                self.done, self.total, self.tokens = event["done"], event["total"], event["tokens"]
                if event.get("status"):
                    watcher.status(event["status"])
            elif kind == "note":
                watcher.note(event["text"])
            elif kind == "done":
                self.result = event["counts"]
            elif kind == "error":
                self.error = event


class _Running(Heard):
    def __init__(self, worker: Worker, keep_fds: Sequence[int]) -> None:
        super().__init__()
        self.worker = worker
        for path in (worker.events, worker.log):
            path.parent.mkdir(parents=True, exist_ok=True)
        worker.events.write_text("")
        self._reader = open(worker.events, encoding="utf-8")  # noqa: SIM115 - closed in stop()
        with open(worker.log, "ab") as log:
            self.log_start = log.tell()
            self.process = subprocess.Popen(
                worker.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=make_environment(worker.env),
                start_new_session=True,  # Ctrl-C reaches the controller alone, which then ends the group
                pass_fds=keep_fds,
            )

    def read(self, watcher: Watcher) -> None:
        self.take(self._reader.read(), watcher)

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.close()


def run_workers(workers: Sequence[Worker], watcher: Watcher, keep_fds: Sequence[int] = ()) -> list[Counts]:
    """Run workers side by side until all have ended well; returns what each sent as its result.

    The first failure, and any exception here (Ctrl-C), ends them all.

    Args:
        keep_fds: file descriptors that the workers inherit (the run's lock, so that it is held while any lives).

    Raises:
        UserError: a worker reported that the input is wrong, or the disk is full.
        StageFailed: a worker crashed or was killed.
    """
    running = [_Running(worker, keep_fds) for worker in workers]
    try:
        while True:
            ended = [r.process.poll() is not None for r in running]
            for r in running:
                r.read(watcher)
            watcher.progress(
                sum(r.done for r in running), sum(r.total for r in running), sum(r.tokens for r in running)
            )
            for r, has_ended in zip(running, ended, strict=True):
                if r.error or (has_ended and r.result is None):
                    raise _failure(r)
            if all(ended):
                return [r.result or {} for r in running]
            time.sleep(POLL_SECONDS)
    finally:
        for r in running:
            r.stop()


def _failure(running: _Running) -> Exception:
    worker = running.worker
    known = by_user(running.error, worker.events.parent)
    if known:
        return known
    with contextlib.suppress(subprocess.TimeoutExpired):
        running.process.wait(timeout=5)
    text = read_from(worker.log, running.log_start)
    how = describe_end(running.error, text, running.process.poll())
    return StageFailed(f"a worker failed: {how}\n  log: {worker.log}\n{last_lines(text)}")


def by_user(error: dict[str, str] | None, folder: Path) -> UserError | None:
    """A failure that the user alone can end: what the process has said, or a disk without space; None for others.

    Args:
        folder: on the disk that it writes to.
    """
    if error and error.get("kind") == "user":
        return UserError(error.get("what") or error["text"], where=error.get("where", ""), do=error.get("do", ""))
    if shutil.disk_usage(folder).free < LOW_DISK:
        return UserError(
            "the disk is full",
            where=str(folder),
            do="free some space, then rerun the same command to resume",
        )
    return None


def describe_end(error: dict[str, str] | None, log: str, code: int | None) -> str:
    """How a process failed: in its own words, by the cause that its log names, or by its exit code."""
    if error:
        return error.get("text", "an error")
    if cause := find_cause(log):
        return cause
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}" + (" (out of memory?)" if code == -signal.SIGKILL else "")
    return f"ended with exit code {code} and no result"
