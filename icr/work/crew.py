"""The workers of one piece of work: who may have which part now, and who hangs."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from icr.work.parts import Part
from icr.work.pool import Pool, Task, WorkerId

AWAY_SECONDS = 5.0
"""A longer time between two looks at the pool does not count as silence of the workers: the driver was busy elsewhere,
or the whole machine was stopped."""

_tickets = itertools.count(1)
"""One sequence for all calls of `run_shards`, so that none takes another's late events for its own."""


@dataclass(frozen=True)
class Limits:
    """When a worker counts as hanging, in seconds, and how often what failed is tried again.

    A worker with work is killed after `silence` without a sign of life (`start` before its first one). A shard counts
    as hanging after `floor` seconds, or `factor` times the median of the finished ones if that is more, as soon as
    `finished` are done; a worker's first shard, which may load a model, has at least `start` seconds. Workers are
    replaced `restarts` times. After `tries` failures, on any workers, a part is cut, or its last unit given up. As long
    as nothing is done, `witnesses` workers that fail end the work: no other would do better.
    """

    silence: float = 120.0
    floor: float = 300.0
    start: float = 900.0
    factor: float = 10.0
    finished: int = 3
    restarts: int = 32
    tries: int = 2
    witnesses: int = 1


@dataclass(eq=False)
class Flight:
    """A part that a worker is working on. `since`: on the crew's clock; `started`: on the wall's."""

    part: Part
    worker: WorkerId
    since: float
    started: float
    pieces: int = 0
    tokens: int = 0


@dataclass(eq=False)
class Hand:
    """What is known of a worker. `heard`: when it last gave a sign of life, on the crew's clock."""

    heard: float
    has_spoken: bool = False
    finished: int = 0
    failed_in_a_row: int = 0
    doomed: set[int] | None = None
    """Once it was killed from here: the tickets that are to blame."""


class Crew:
    """Hands parts to workers and remembers what each has."""

    def __init__(self, pool: Pool, task: Task, wanted: int, limits: Limits) -> None:
        self._pool, self._task, self._limits = pool, task, limits
        self._wanted: int | None = wanted
        self._depth = pool.depth(task.lane)
        self.hands: dict[WorkerId, Hand] = {}
        self.flights: dict[int, Flight] = {}
        self.restarts = 0
        self.finished: list[tuple[float, int]] = []
        """Seconds and weight of the parts that are done."""
        self._ready: Sequence[WorkerId] = ()
        self._seen: set[int] = set()
        self._clock = 0.0
        self._looked = time.monotonic()

    def hand_out(self, queue: deque[Part]) -> None:
        """Give parts to workers with room, the emptiest worker first."""
        if not queue:
            return
        self._gather()
        while queue:
            chosen = self._choose(queue)
            if chosen is None:
                return
            self._send(*chosen)
            queue.remove(chosen[1])

    def call_all(self) -> None:
        """From now on use every worker of the lane, also where there are fewer shards: something failed."""
        self._wanted = None

    def tick(self) -> None:
        """Go on with the clock; called at each look at the pool."""
        now = time.monotonic()
        self._clock += min(now - self._looked, AWAY_SECONDS)
        self._looked = now

    def hear(self, worker: WorkerId) -> Hand | None:
        """Take a sign of life; None if the worker was an earlier call's."""
        hand = self.hands.get(worker)
        if hand:
            hand.heard, hand.has_spoken = self._clock, True
        return hand

    def land(self, ticket: int, hand: Hand) -> Flight | None:
        """Take a finished part from its worker; None if it was an earlier call's."""
        flight = self.flights.pop(ticket, None)
        if flight:
            hand.finished += 1
            hand.failed_in_a_row = 0
            self.finished.append((time.monotonic() - flight.started, flight.part.weight))
        return flight

    def bury(self, worker: WorkerId) -> tuple[list[Flight], list[Flight]]:
        """Forget a worker that died: what it had that is to blame, and what was only lost with it."""
        hand = self.hands.pop(worker)
        lost = {ticket: flight for ticket, flight in self.flights.items() if flight.worker == worker}
        blamed = set(lost) if hand.doomed is None else hand.doomed
        for ticket in lost:
            del self.flights[ticket]
        guilty = [flight for ticket, flight in lost.items() if ticket in blamed]
        return guilty, [flight for ticket, flight in lost.items() if ticket not in blamed]

    def kill(self, worker: WorkerId, blamed: set[int], why: str) -> None:
        """End a worker; its `Died` will find these tickets to blame."""
        self.hands[worker].doomed = blamed
        self._pool.kill(worker, why)

    def abandon(self) -> None:
        """End the workers that have work."""
        for worker in {flight.worker for flight in self.flights.values()}:
            self._pool.kill(worker, "its work was given up")
        self.flights.clear()

    def end_hung(self) -> None:
        for ticket, flight in list(self.flights.items()):
            hand = self.hands[flight.worker]
            if hand.doomed is not None:
                continue
            quiet, running = self._clock - hand.heard, self._clock - flight.since
            if quiet > (self._limits.silence if hand.has_spoken else max(self._limits.silence, self._limits.start)):
                self.kill(flight.worker, set(self._tickets(flight.worker)), f"no sign of life for {quiet:.0f} s")
            elif running > self._limits.floor and running > self._time_allowed(flight, hand):
                self.kill(flight.worker, {ticket}, f"shard {flight.part.whole.shard.name} ran for {running:.0f} s")

    def _time_allowed(self, flight: Flight, hand: Hand) -> float:
        """Seconds until a shard counts as hanging; a heavier one than usual has more."""
        if len(self.finished) < self._limits.finished:
            return math.inf
        usual = statistics.median(seconds for seconds, _ in self.finished)
        usual_weight = statistics.median(weight for _, weight in self.finished)
        heavier = max(1.0, flight.part.weight / max(1.0, usual_weight))
        least = self._limits.floor if hand.finished else max(self._limits.floor, self._limits.start)
        return max(least, self._limits.factor * usual * heavier)

    def _gather(self) -> None:
        self._ready = self._pool.workers(self._task.lane, self._wanted)
        for worker in self._ready:
            if worker not in self.hands:
                self.hands[worker] = Hand(self._clock)
                self.restarts += worker.index in self._seen
                self._seen.add(worker.index)

    def _tickets(self, worker: WorkerId) -> Iterator[int]:
        return (ticket for ticket, flight in self.flights.items() if flight.worker == worker)

    def _load(self, worker: WorkerId) -> int:
        return sum(1 for _ in self._tickets(worker))

    def _choose(self, queue: deque[Part]) -> tuple[WorkerId, Part] | None:
        for worker in sorted(self._ready, key=self._load):
            part = self._choose_for(worker, queue)
            if part:
                return worker, part
        return None

    def _choose_for(self, worker: WorkerId, queue: deque[Part]) -> Part | None:
        """The first part of the queue that this worker may have now."""
        has = [self.flights[ticket].part for ticket in self._tickets(worker)]
        if len(has) >= self._depth or any(part.is_suspect for part in has):
            return None
        for part in queue:
            able = [w for w in self._ready if w not in part.failed_on] or self._ready
            if worker not in able:
                continue
            if not (part.is_suspect and has):
                return part
            if worker == min(able, key=self._load):
                return None  # it gets no more until it is empty, and then has this part alone
        return None

    def _send(self, worker: WorkerId, part: Part) -> None:
        if not self._load(worker):
            self.hands[worker].heard = self._clock  # without work it owed no signs of life
        ticket = next(_tickets)
        self.flights[ticket] = Flight(part, worker, self._clock, time.monotonic())
        self._pool.submit(worker, ticket, self._task, part.table)
