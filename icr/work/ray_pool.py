"""Workers on the nodes of a Ray cluster, behind the protocol that the pool of one machine has.

One actor is one host: it has the GPUs of one engine and runs a local pool on its node (`icr.work.ray_host`). Ray
places hosts, notices their end and starts them again; what is tried again, and where, is decided by the one queue
(`icr.work.shard_queue`). The driver alone writes the run folder: tables and logs come here.
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa

from icr.base.errors import UserError
from icr.work.local_pool import REST_SECONDS, Lane, LocalPool, pack_shard
from icr.work.pool import Died, Done, Event, Failed, Failure, Task, WorkerId
from icr.work.published import Published
from icr.work.ray_cluster import pass_on
from icr.work.ray_host import Order
from icr.work.ray_hosts import HostActor, Hosts, Lost, News
from icr.work.shares import Share

KILL_SECONDS = 10.0
"""How long a host may take to end a worker. After that the host itself is ended."""
STOP_SECONDS = 15.0
PAUSE_SECONDS = 5.0
"""How long a place stays empty after its second worker in a row has ended with nothing done; then twice as long: its
device or node may be broken."""
LONGEST_PAUSE = 600.0


@dataclass
class _Places:
    """The workers of a host's present life."""

    known: dict[WorkerId, WorkerId] = field(default_factory=dict)
    """Those that live: id there → id here."""
    ended: Counter[tuple[str, int]] = field(default_factory=Counter)
    """How many have ended in each place: the next one's generation there."""
    killing: dict[WorkerId, tuple[float, str]] = field(default_factory=dict)
    """Id there of one that is to end → until when, and why."""


class RayPool:
    """A pool on a cluster that `ray_cluster.connect` has connected to. Lanes that it has not are the local pool's."""

    def __init__(
        self,
        folder: Path,
        lanes: Mapping[str, Lane],
        here: LocalPool,
        count: int,
        gpus_each: int = 0,
        module: str = "icr.commands.worker",
        env: Mapping[str, str] | None = None,
        models: Published | None = None,
        share: Share | None = None,
    ) -> None:
        """Start nothing yet.

        Args:
            folder: the run's; logs of all workers are appended to `folder`/logs/LANE-INDEX.log.
            lanes: of each host.
            here: lanes of the driver's machine.
            count: hosts.
            gpus_each: GPUs of a host.
            module: as of `LocalPool`.
            env: added to the workers' environment.
            models: where hosts have models from; None: they see the driver's folders.
            share: where hosts are; None: anywhere in the cluster.
        """
        self._folder, self._lanes, self._here, self._models = folder, lanes, here, models
        self._order = Order(
            lanes, module, {**pass_on(), **(env or {})}, os.getcwd(), bucket=models.uri if models else None
        )
        self._hosts = Hosts(folder, count, gpus_each, share)
        self._places: dict[HostActor, _Places] = defaultdict(_Places)
        self._generations: Counter[tuple[str, int]] = Counter()
        self._events: list[Event] = []
        self._in_vain: Counter[tuple[str, int]] = Counter()
        self._paused: dict[tuple[str, int], float] = {}

    def workers(self, lane: str, wanted: int | None = None) -> list[WorkerId]:
        """See `Pool.workers`. Workers of hosts that are not ready are left out: there may be none for now.

        Raises:
            UserError: another command has the run; a node has other versions than this machine, or cannot run icr.
            StageFailed: no host has been ready for long.
        """
        if lane not in self._lanes:
            return self._here.workers(lane, wanted)
        self._hosts.start(self._order)
        self._listen(0)
        self._hosts.check_lonely()
        places = [
            (host, at)
            for host in self._hosts.ready
            for at in range(self._lanes[lane].count)
            if self._paused.get(self._key(host, lane, at), 0.0) < time.monotonic()
        ]
        return [self._take_place(host, lane, at) for host, at in places[:wanted]]

    def warm(self, lane: str, modules: Sequence[str]) -> None:
        """See `Pool.warm`."""
        if lane not in self._lanes:
            self._here.warm(lane, modules)
            return
        self._order = replace(self._order, warm={**self._order.warm, lane: modules})
        self._hosts.start(self._order)
        for host in self._hosts.ready:
            host.actor.warm.remote(host.life, lane, modules)

    def depth(self, lane: str) -> int:
        """See `Pool.depth`."""
        return self._lanes[lane].depth if lane in self._lanes else self._here.depth(lane)

    def submit(self, worker: WorkerId, ticket: int, task: Task, table: pa.Table) -> None:
        """See `Pool.submit`."""
        if worker.lane not in self._lanes:
            self._here.submit(worker, ticket, task, table)
            return
        models = self._publish(task)
        if found := self._find(worker):
            host, there = found
            message = b"".join(pack_shard(ticket, task, table))
            host.actor.submit.remote(host.life, there, ticket, message, models)

    def collect(self, timeout: float) -> list[Event]:
        """See `Pool.collect`. Raises as `workers`."""
        self._events += self._here.collect(0)
        self._listen(0 if self._events else timeout)
        events, self._events = self._events, []
        return events

    def kill(self, worker: WorkerId, why: str) -> None:
        """See `Pool.kill`. A host that does not do it in time is ended."""
        if worker.lane not in self._lanes:
            self._here.kill(worker, why)
        elif found := self._find(worker):
            host, there = found
            self._places[host].killing.setdefault(there, (time.monotonic() + KILL_SECONDS, why))
            host.actor.kill.remote(host.life, there, why)

    def rest(self, lane: str) -> None:
        """See `Pool.rest`."""
        if lane not in self._lanes:
            self._here.rest(lane)
            return
        asked = {host: host.actor.rest.remote(host.life, lane) for host in self._hosts.ready}
        self._hosts.settle(asked, REST_SECONDS + KILL_SECONDS, "killed, because it did not release its memory")

    def stop(self, lane: str | None = None) -> None:
        """See `Pool.stop`."""
        if lane is None or lane not in self._lanes:
            self._here.stop(lane)
        if lane is None or lane in self._lanes:
            asked = {host: host.actor.stop.remote(host.life, lane) for host in self._hosts.ready}
            self._hosts.settle(asked, STOP_SECONDS, "killed, because it did not end its workers")
        if lane is None:
            self._hosts.stop()
        else:
            self._listen(0)

    def _publish(self, task: Task) -> dict[str, str]:
        """Raises UserError where a model that the task names cannot be stored."""
        if self._models is None:
            return {}
        try:
            return self._models.publish(task.model_dump_json())
        except OSError as error:
            do = "check the address, and that you may write there"
            raise UserError(f"a model could not be stored: {error}", where="cluster.models", do=do) from error
        finally:
            self._hosts.excuse()

    def _listen(self, timeout: float) -> None:
        for host, news in self._hosts.listen(self._order, timeout):
            if isinstance(news, Lost):
                self._bury(host, news)
            else:
                self._take(host, news)
        for host in self._hosts.ready:
            for until, why in self._places[host].killing.values():
                if time.monotonic() > until:
                    self._hosts.end(host, why)
                    break

    def _take(self, host: HostActor, news: News) -> None:
        for name, text in news.logs.items():
            self._write_log(host, name, text)
        self._events += filter(None, [self._translate(host, event) for event in news.events])

    def _bury(self, host: HostActor, lost: Lost) -> None:
        for worker in self._places.pop(host, _Places()).known.values():
            self._pause(worker)
            self._events.append(Died(worker, Failure(lost.why, log=str(self._log(worker)))))

    # -- ids and logs

    def _take_place(self, host: HostActor, lane: str, at: int) -> WorkerId:
        """The worker in a place of a host. One that is not there yet starts with its first shard."""
        places = self._places[host]
        there = WorkerId(lane, at, places.ended[lane, at])
        if there not in places.known:
            key = self._key(host, lane, at)
            places.known[there] = WorkerId(*key, self._generations[key])
            self._generations[key] += 1
        return places.known[there]

    def _find(self, worker: WorkerId) -> tuple[HostActor, WorkerId] | None:
        """The host of this very worker, and its id there; None if it has ended."""
        for host in self._hosts.ready:
            for there, here in self._places[host].known.items():
                if here == worker:
                    return host, there
        return None

    def _translate(self, host: HostActor, event: Event) -> Event | None:
        """An event with the ids of here; None if it is of a worker that nobody here has asked for."""
        places, there = self._places[host], event.worker
        worker = places.known.get(there)
        if isinstance(event, Died):
            places.ended[there.lane, there.index] += 1
            places.known.pop(there, None)
            places.killing.pop(there, None)
        if worker is None:
            return None
        if isinstance(event, Done):
            self._in_vain.pop((worker.lane, worker.index), None)
        elif isinstance(event, Died):
            self._pause(worker)
        if isinstance(event, Died | Failed):
            return replace(event, worker=worker, failure=self._relocate(host, event.failure, there, worker))
        return replace(event, worker=worker)

    def _relocate(self, host: HostActor, failure: Failure, there: WorkerId, worker: WorkerId) -> Failure:
        """A failure with paths that can be looked up: logs are here, other files on the node."""
        assert host.facts is not None
        folder, log = host.facts.folder, str(self._log(worker))
        where = failure.where.replace(f"{folder}/logs/{there}.log", log).replace(folder, f"{host.facts.node}:{folder}")
        return replace(failure, where=where, log=log)

    def _pause(self, worker: WorkerId) -> None:
        key = worker.lane, worker.index
        self._in_vain[key] += 1
        if self._in_vain[key] > 1:
            seconds = min(LONGEST_PAUSE, PAUSE_SECONDS * 2 ** (self._in_vain[key] - 2))
            self._paused[key] = time.monotonic() + seconds

    def _key(self, host: HostActor, lane: str, at: int) -> tuple[str, int]:
        """Lane and number of a place among all hosts."""
        return lane, host.index * self._lanes[lane].count + at

    def _log(self, worker: WorkerId) -> Path:
        return self._folder / "logs" / f"{worker}.log"

    def _write_log(self, host: HostActor, name: str, text: bytes) -> None:
        lane, _, at = name.rpartition("-")
        path = self._log(WorkerId(*self._key(host, lane, int(at))))
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab") as file:
            file.write(text)
