"""Workers as processes of this machine: each a guard and, below it, a Python process and what that starts."""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import cast

import pyarrow as pa

from icr.base.process import make_environment
from icr.work.causes import describe_failure
from icr.work.launch import LOW_DISK
from icr.work.messages import Header, pack
from icr.work.pool import Alive, Died, Event, Failure, Task, WorkerId
from icr.work.worker_process import WorkerProcess

LEAVE_SECONDS = 5.0
"""How long a worker without work may take to end by itself when the pool stops."""
REST_SECONDS = 120.0


@dataclass(frozen=True)
class Lane:
    """How many workers, how many GPUs each has for itself (0: the environment's are left as they are), and how many
    shards each may have in flight."""

    count: int
    gpus_each: int = 0
    depth: int = 1


class LocalPool:
    """A pool on this machine. Workers start when they are first asked for and stay until `stop` or the driver's end.

    Whichever way the driver ends, SIGKILL included, every process below a worker ends at once with it.
    """

    def __init__(
        self,
        folder: Path,
        lanes: Mapping[str, Lane],
        module: str = "icr.commands.worker",
        keep_fds: Sequence[int] = (),
        env: Mapping[str, str] | None = None,
        log_name: str = "",
    ) -> None:
        """Start nothing yet.

        Args:
            folder: logs are appended to `folder`/logs/LANE-INDEX.log, after `log_name`.
            module: run as `python -m MODULE CHANNEL DEPTH`; it calls `icr.work.serve.serve`.
            keep_fds: file descriptors that the workers hold, too (the run's lock).
            env: added to the workers' environment.
        """
        self._folder, self._lanes, self._module, self._log_name = folder, lanes, module, log_name
        self._keep_fds, self._env = tuple(keep_fds), dict(env or {})
        self._running: dict[tuple[str, int], WorkerProcess] = {}
        self._generations: dict[tuple[str, int], int] = {}
        self._events: list[Event] = []
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def workers(self, lane: str, wanted: int | None = None) -> list[WorkerId]:
        """See `Pool.workers`."""
        count = self._lanes[lane].count
        slots = [(lane, index) for index in range(count if wanted is None else min(count, wanted))]
        for slot in slots:
            process = self._running.get(slot)
            if process and process.has_ended():
                self._bury(process)
            if slot not in self._running:
                self._start(*slot)
        return [self._running[slot].id for slot in slots]

    def warm(self, lane: str, modules: Sequence[str]) -> None:
        """See `Pool.warm`."""
        for worker in self.workers(lane):
            self._post(self._running[lane, worker.index], pack({"kind": "warm", "modules": " ".join(modules)}))

    def depth(self, lane: str) -> int:
        """See `Pool.depth`."""
        return self._lanes[lane].depth

    def submit(self, worker: WorkerId, ticket: int, task: Task, table: pa.Table) -> None:
        """See `Pool.submit`."""
        self.post(worker, ticket, pack_shard(ticket, task, table))

    def post(self, worker: WorkerId, ticket: int, message: Sequence[memoryview]) -> None:
        """`submit` of a shard that `pack_shard` has packed, maybe on another machine."""
        process = self._find(worker)
        if process:
            process.in_flight.add(ticket)
            self._post(process, message)

    def fileno(self) -> int:
        """Readable when `collect(0)` has something to do."""
        return cast(selectors.EpollSelector, self._selector).fileno()

    def collect(self, timeout: float) -> list[Event]:
        """See `Pool.collect`."""
        self._listen(0 if self._events else timeout)
        events, self._events = self._events, []
        return events

    def kill(self, worker: WorkerId, why: str) -> None:
        """See `Pool.kill`."""
        process = self._find(worker)
        if process:
            self._bury(process, why)

    def rest(self, lane: str) -> None:
        """See `Pool.rest`. A worker that does not answer in time is killed, which gives the memory back as well."""
        waiting = [process for process in self._running.values() if process.id.lane == lane]
        for process in waiting:
            if process.in_flight:
                raise RuntimeError(f"worker {process.id} has work in flight and cannot rest")
            process.has_rested = False
            self._post(process, pack({"kind": "rest"}))
        deadline = time.monotonic() + REST_SECONDS
        while waiting and time.monotonic() < deadline:
            self._listen(0.25)
            waiting = [process for process in waiting if not process.has_rested and self._find(process.id)]
        for process in waiting:
            self._bury(process, "killed, because it did not release its memory")

    def stop(self, lane: str | None = None) -> None:
        """See `Pool.stop`. A worker without work may end by itself, so that its engine can clean up."""
        leaving = [process for process in self._running.values() if lane in (None, process.id.lane)]
        for process in leaving:
            if not process.in_flight:
                with contextlib.suppress(OSError):  # it has ended already
                    process.channel.shutdown(socket.SHUT_RDWR)
        deadline = time.monotonic() + LEAVE_SECONDS
        for process in leaving:
            with contextlib.suppress(subprocess.TimeoutExpired):
                if not process.in_flight:
                    process.popen.wait(max(0.0, deadline - time.monotonic()))
            self._bury(process, "the pool was stopped")

    def _find(self, worker: WorkerId) -> WorkerProcess | None:
        """The process of this very id; None if it has ended or was replaced."""
        process = self._running.get((worker.lane, worker.index))
        return process if process and process.id == worker else None

    def _start(self, lane: str, index: int) -> None:
        generation = self._generations.get((lane, index), -1) + 1
        self._generations[lane, index] = generation
        setup = self._lanes[lane]
        env = make_environment({"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", **self._env})
        if setup.gpus_each:
            env["CUDA_VISIBLE_DEVICES"] = name_devices(index * setup.gpus_each, setup.gpus_each)
        log = self._folder / "logs" / f"{self._log_name}{lane}-{index}.log"
        process = WorkerProcess(WorkerId(lane, index, generation), self._module, setup.depth, log, env, self._keep_fds)
        self._running[lane, index] = process
        self._selector.register(process.channel, selectors.EVENT_READ, process)

    def _post(self, process: WorkerProcess, pieces: Sequence[memoryview]) -> None:
        process.outbox.extend(pieces)
        self._flush(process)

    def _flush(self, process: WorkerProcess) -> None:
        """Send what the channel takes now; the rest goes when it takes more, as a worker that stopped never may."""
        process.flush()
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if process.outbox else 0)
        if self._selector.get_key(process.channel).events != wanted:
            self._selector.modify(process.channel, wanted, process)

    def _listen(self, timeout: float) -> None:
        """Move bytes both ways and add to the events."""
        for key, mask in self._selector.select(timeout):
            process: WorkerProcess = key.data
            if mask & selectors.EVENT_WRITE:
                self._flush(process)
            if mask & selectors.EVENT_READ:
                self._read(process)
        for process in list(self._running.values()):
            if process.reader.closed or process.has_ended():
                self._bury(process)

    def _read(self, process: WorkerProcess) -> None:
        before = process.reader.received
        for message in process.reader.messages():
            event = process.understand(message, self._look_up_failure)
            if event:
                self._events.append(event)
        if process.reader.received > before:
            self._events.append(Alive(process.id))  # also in the middle of a long message

    def _bury(self, process: WorkerProcess, why: str = "") -> None:
        """End what is left of a worker and add its `Died`. `why` is empty if it ended by itself."""
        if not why:
            self._read(process)  # what it sent before its end
        self._selector.unregister(process.channel)
        del self._running[process.id.lane, process.id.index]
        how = process.end(gently=not why)
        self._events.append(Died(process.id, self._look_up_failure(process, why or how)))

    def _look_up_failure(self, process: WorkerProcess, what: str) -> Failure:
        """A failure with cause and log, unless the disk is full, which is the cause of most other things then."""
        if shutil.disk_usage(self._folder).free < LOW_DISK:
            do = "free some space, then rerun the same command to resume"
            return Failure("the disk is full", where=str(self._folder), do=do, by_user=True)
        return describe_failure(what, process.log, process.read_log())


def pack_shard(ticket: int, task: Task, table: pa.Table) -> list[memoryview]:
    """The message to a worker that `Pool.submit` stands for; of a table that is a slice only the slice."""
    header: Header = {"kind": "work", "ticket": ticket, "task": task.name, "payload": task.model_dump_json()}
    return pack(header, table)


def name_devices(first: int, count: int) -> str:
    """The value of CUDA_VISIBLE_DEVICES for `count` of the devices that this process sees, from number `first` on."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(first + count)]
    return ",".join(names[first : first + count])
