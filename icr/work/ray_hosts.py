"""The hosts of a Ray pool as the driver sees them: asked for, ready, lost, started again by Ray, ready once more."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icr.base.errors import StageFailed, UserError
from icr.work.pool import Event
from icr.work.ray_cluster import describe_difference
from icr.work.ray_host import Facts, Host, Order, find_versions
from icr.work.shares import Share

LISTEN_SECONDS = 1.0
"""How long a host may gather news of no weight; it answers at once where something is done or has failed."""
SILENCE_SECONDS = 30.0
"""How long a host may owe an answer before it is ended: it stands still, or the way to it is cut."""
READY_SECONDS = 600.0
"""How long there may be no host at all: a node may be on its way."""
AGAIN_SECONDS = 1.0
"""Between two questions whether a host is there again."""
NAME_SECONDS = 20.0
"""How long the hosts of a command that was just killed may take to end."""
NAMESPACE = "icr"


@dataclass(eq=False)
class HostActor:
    """One actor. A life begins when it is ready and ends with the actor's process or the way to it."""

    index: int
    actor: Any
    life: int = 0
    facts: Facts | None = None
    """None: it is not ready."""
    answer: Any = None
    """What was asked last and is not answered: whether it is ready, or, if it is, what has happened."""
    ask_at: float = 0.0
    asked_at: float = 0.0


@dataclass(frozen=True)
class News:
    """What happened at a host, and what its logs LANE-INDEX have got."""

    events: Sequence[Event]
    logs: Mapping[str, bytes]


@dataclass(frozen=True)
class Lost:
    """The host's life is over, with all its workers."""

    why: str


class Hosts:
    """All of a pool's. `ray_cluster.connect` comes first."""

    def __init__(self, run: Path, count: int, gpus_each: int, share: Share | None = None) -> None:
        """
        Args:
            run: its hosts are named by it, so that two commands cannot have them at a time.
            gpus_each: GPUs of a host. They are of one node, as all that an actor has.
            share: where they are; None: anywhere in the cluster.
        """
        import ray

        self._ray, self._run, self._count = ray, run, count
        self._gpus_each, self._share = gpus_each, share
        self._groups: list[Any] = []
        self._all: list[HostActor] = []
        self._lost: list[tuple[HostActor, Lost]] = []
        self._lonely_since: float | None = None
        self._settled_at = 0.0

    @property
    def ready(self) -> list[HostActor]:
        """Those that can be given work."""
        return [host for host in self._all if host.facts]

    def start(self, order: Order) -> None:
        """Ask Ray for the hosts, once.

        Raises:
            UserError: another command has them.
        """
        if self._all:
            return
        for index in range(self._count):
            kind = self._ray.remote(max_restarts=-1, max_task_retries=0, **self._reserve(index))(Host)
            self._all.append(HostActor(index, create_named(kind, self._run, str(index))))
            self._ask(self._all[-1], order)

    def _reserve(self, index: int) -> dict[str, object]:
        """Ray's options for a host's place. An engine of several GPUs has them reserved, on one node: they stay its own
        while it is started again, and no half of them goes to another program meanwhile."""
        asked = {"num_cpus": 1, "num_gpus": self._gpus_each}
        if self._share:
            place = self._share.list_places(self._gpus_each)[index]
            return {**asked, "scheduling_strategy": self._share.at(place)}
        if self._gpus_each < 2:
            return {**asked, "scheduling_strategy": "SPREAD"}
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        group = placement_group([{"CPU": 1, "GPU": self._gpus_each}], strategy="STRICT_PACK")
        self._groups.append(group)
        return {**asked, "scheduling_strategy": PlacementGroupSchedulingStrategy(group, 0)}

    def listen(self, order: Order, timeout: float) -> list[tuple[HostActor, News | Lost]]:
        """What is new; waits at most `timeout` seconds for something.

        Args:
            order: for hosts that begin a life.

        Raises:
            UserError: a node has other versions than this machine, or cannot run icr.
        """
        for host in self._all:
            if host.answer is None:
                self._ask(host, order)
        asked = {host.answer: host for host in self._all if host.answer is not None}
        found: list[tuple[HostActor, News | Lost]] = []
        if asked:
            if timeout and not self._lost:
                self._ray.wait(list(asked), timeout=timeout)  # for one; then all that are there
            for answer in self._ray.wait(list(asked), num_returns=len(asked), timeout=0)[0]:
                news = self._hear(asked[answer], answer)
                found += [(asked[answer], news)] if news else []
            self._end_silent()
        elif not self._lost:
            time.sleep(timeout)
        lost, self._lost = self._lost, []
        return [*found, *lost]

    def check_lonely(self) -> None:
        """Raises StageFailed where no host has been ready for long."""
        if self.ready:
            self._lonely_since = None
            return
        self._lonely_since = self._lonely_since or time.monotonic()
        if time.monotonic() - self._lonely_since > READY_SECONDS:
            gpus = self._gpus_each
            raise StageFailed(
                f"no worker of the cluster has been ready for {READY_SECONDS:.0f} s: each needs "
                f"{f'{gpus} GPUs and ' if gpus else ''}1 CPU of one node; `ray status` shows what the cluster has"
            )

    def _end_silent(self) -> None:
        for host in self.ready:
            owed = time.monotonic() - max(host.asked_at, self._settled_at)
            if host.answer is not None and owed > SILENCE_SECONDS:
                self.end(host, f"its host has not answered for {owed:.0f} s")

    def end(self, host: HostActor, why: str) -> None:
        """End a host that does not do what it is told. Ray starts it again."""
        self._ray.kill(host.actor, no_restart=False)
        self._lose(host, why)

    def settle(self, asked: Mapping[HostActor, Any], seconds: float, complaint: str) -> None:
        """Wait until hosts have done what they were asked; end those that do not."""
        refs = list(asked.values())
        done = self._ray.wait(refs, num_returns=len(refs), timeout=seconds)[0] if refs else []
        for host, ref in asked.items():
            if ref not in done:
                self.end(host, complaint)
                continue
            try:
                self._ray.get(ref)
            except self._ray.exceptions.RayError:
                self._lose(host, "its host ended")
        self.excuse()

    def excuse(self) -> None:
        """Hosts that owe an answer have time for it from now on: they, or this machine, had something else to do."""
        self._settled_at = time.monotonic()

    def stop(self) -> None:
        """End all actors."""
        for host in self._all:
            self._ray.kill(host.actor)
        self._all.clear()
        for group in self._groups:
            self._ray.util.remove_placement_group(group)
        self._groups.clear()

    def _ask(self, host: HostActor, order: Order) -> None:
        """Ask a host for what is new, or whether it is ready."""
        if host.facts:
            host.answer = host.actor.collect.remote(host.life, LISTEN_SECONDS)
            host.asked_at = time.monotonic()
        elif time.monotonic() >= host.ask_at:
            host.answer = host.actor.ready.remote(host.life, order)

    def _hear(self, host: HostActor, answer: Any) -> News | None:
        host.answer = None
        try:
            found = self._ray.get(answer)
        except self._ray.exceptions.RayTaskError as error:
            raise cannot_run(error.cause) from error
        except self._ray.exceptions.RayActorError as error:
            if "creation task" in str(error):
                raise cannot_run(error) from error
            self._lose(host, "its host ended")
            return None
        if isinstance(found, Facts):
            if problem := describe_difference(found.versions, find_versions(), found.node):
                raise problem
            host.facts = found
            return None
        if found is None:
            self._lose(host, "its host was started again")
            return None
        return News(*found)

    def _lose(self, host: HostActor, why: str) -> None:
        """It is used again once it is ready again."""
        self._lost.append((host, Lost(f"{why} (on {host.facts.node})" if host.facts else why)))
        host.life += 1
        host.facts, host.answer, host.ask_at = None, None, time.monotonic() + AGAIN_SECONDS


def cannot_run(error: object) -> UserError:
    """What to tell the user where an actor could not be made on a node."""
    why = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return UserError(
        f"a node of the cluster cannot run icr: {why}",
        where="cluster.address",
        do="install the same icr, with the same packages, on every node: pip install 'icr-align[ray]'",
    )


def create_named(kind: Any, run: Path, name: str) -> Any:
    """An actor of a run, one of its name at a time in the cluster.

    Args:
        kind: what `ray.remote` has made of its class.

    Raises:
        UserError: another command has it.
    """
    name = f"{hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:16]}-{name}"
    deadline = time.monotonic() + NAME_SECONDS
    while True:
        try:
            return kind.options(name=name, namespace=NAMESPACE).remote()
        except ValueError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    "another command is using this run folder on the cluster",
                    where=str(run),
                    do=f"wait for it, or stop it; it has the actor {name} in the namespace {NAMESPACE}",
                ) from error
            time.sleep(0.5)
