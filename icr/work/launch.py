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


class _Running:
    def __init__(self, worker: Worker, keep_fds: Sequence[int]) -> None:
        self.worker = worker
        for path in (worker.events, worker.log):
            path.parent.mkdir(parents=True, exist_ok=True)
        worker.events.write_text("")
        self._reader = open(worker.events, encoding="utf-8")  # noqa: SIM115 - closed in stop()
        self._rest = ""
        self.done = self.total = self.tokens = 0
        self.result: Counts | None = None
        self.error: dict[str, str] | None = None
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
        *lines, self._rest = (self._rest + self._reader.read()).split("\n")
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
    worker, error = running.worker, running.error or {}
    free = shutil.disk_usage(worker.events.parent).free
    if error.get("kind") == "user":
        return UserError(error.get("what") or error["text"], where=error.get("where", ""), do=error.get("do", ""))
    if free < LOW_DISK:
        return UserError(
            "the disk is full",
            where=str(worker.events.parent),
            do="free some space, then rerun the same command to resume",
        )
    with contextlib.suppress(subprocess.TimeoutExpired):
        running.process.wait(timeout=5)
    code = running.process.poll()
    text = read_from(worker.log, running.log_start)
    cause = None if error else find_cause(text)
    if error:
        how = error.get("text", "an error")
    elif cause:
        how = cause
    elif code is not None and code < 0:
        how = f"killed by {signal.Signals(-code).name}" + (" (out of memory?)" if code == -signal.SIGKILL else "")
    else:
        how = f"ended with exit code {code} and no result"
    return StageFailed(f"a worker failed: {how}\n  log: {worker.log}\n{last_lines(text)}")
