"""The actor's half of a training on a cluster: torchrun on one node, its events and its log.

It knows of no other node. torchrun and its ranks end with the actor, however that ends.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from icr.base.process import make_environment
from icr.work.guard import find_descendants
from icr.work.ray_host import LOG_BYTES, RAY_SETS, find_versions
from icr.work.torchrun import torchrun

LOOK_SECONDS = 0.1
END_SECONDS = 10.0
"""How long a killed process may take to be gone: one that hangs in a kernel driver needs a while."""


@dataclass(frozen=True)
class Launch:
    """What one node is to start. Ranks meet at `address`:`port`, which is on the first node."""

    program: str
    """Module that takes the specification's file as its argument."""
    spec: str
    """Of the training, as JSON; `events` in it is a name, of a file in the agent's own folder."""
    node: int
    nodes: int
    processes: int
    address: str
    port: int
    env: Mapping[str, str]
    folder: str
    """The driver's current folder, which relative paths start from and where custom classes are looked for."""


@dataclass(frozen=True)
class Place:
    """Where an agent is, and a port that is free there."""

    node: str
    address: str
    port: int
    pid: int
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Report:
    """What has come since the last report. `code`: torchrun's exit code; None: it runs."""

    events: str
    log: bytes
    code: int | None


class Agent:
    """An asynchronous actor that starts one training."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="icr-train-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._events: IO[str] | None = None
        self._log: IO[bytes] | None = None

    async def ready(self) -> Place:
        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        address = ray.util.get_node_ip_address()
        return Place(socket.gethostname(), address, port, os.getpid(), find_versions())

    async def start(self, launch: Launch) -> None:
        """Start torchrun. Its parent is a thread that lives as long as this actor, so it ends with the actor."""
        spec, events, log = self._folder / "spec.json", self._folder / "events", self._folder / "log"
        spec.write_text(launch.spec.replace('"EVENTS"', f'"{events}"'), encoding="utf-8")
        events.touch()
        for name in RAY_SETS:
            os.environ.pop(name, None)
        with open(log, "wb") as file:
            self._process = subprocess.Popen(
                [*begin_command(launch), "-m", launch.program, str(spec)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=make_environment(launch.env),
                cwd=launch.folder if os.path.isdir(launch.folder) else None,
                start_new_session=True,
            )
        self._events = open(events, encoding="utf-8")  # noqa: SIM115 - closed in stop()
        self._log = open(log, "rb")  # noqa: SIM115 - closed in stop()

    async def watch(self, seconds: float) -> Report:
        """What has come, as soon as there is something, at the latest after `seconds`."""
        assert self._process and self._events and self._log
        deadline = time.monotonic() + seconds
        while True:
            code = self._process.poll()  # before its last words are read
            found = Report(self._events.read(), self._log.read(LOG_BYTES), code)
            if code is not None and len(found.log) == LOG_BYTES:
                return Report(found.events, found.log, None)  # there is more to come
            if found.events or code is not None or time.monotonic() >= deadline:
                return found
            if found.log:
                return found
            await asyncio.sleep(LOOK_SECONDS)

    async def stop(self) -> None:
        """End torchrun and every rank; returns when they are gone."""
        if self._process is None:
            return
        pids = [self._process.pid, *find_descendants(self._process.pid)]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        deadline = time.monotonic() + END_SECONDS
        while any(_runs(pid) for pid in pids) and time.monotonic() < deadline:
            await asyncio.sleep(LOOK_SECONDS)
        for file in (self._events, self._log):
            if file:
                file.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def begin_command(launch: Launch) -> list[str]:
    """What is before the program: for a single process the same as on one machine."""
    if launch.nodes == launch.processes == 1:
        return [sys.executable]
    return torchrun(launch.processes, meet(launch))


def meet(launch: Launch) -> list[str]:
    """torchrun's arguments. Ranks are numbered by node, so that each finds its part of a checkpoint."""
    if launch.nodes == 1:
        return ["--standalone"]
    where = [f"--master-addr={launch.address}", f"--master-port={launch.port}"]
    return [f"--nnodes={launch.nodes}", f"--node-rank={launch.node}", *where]


def _runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
