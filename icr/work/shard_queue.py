"""One queue of shards for all workers of a lane: who gets what, what is tried again, and when it is given up."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from icr.base.errors import IcrError
from icr.work.crew import Crew, Flight, Hand, Limits
from icr.work.launch import Watcher
from icr.work.parts import Part, Whole
from icr.work.pool import Died, Done, Event, Failed, Failure, Note, Pool, Progress, Shard, Task

LISTEN_SECONDS = 0.25
FAILED_IN_A_ROW = 2
"""Failures of a worker, with no success between, after which it is replaced: its engine or device may be broken."""


@dataclass
class Tally:
    """What did not go smoothly: shards or halves tried again, workers replaced, shards and halves cut."""

    retries: int = 0
    restarts: int = 0
    cuts: int = 0


def run_shards(
    pool: Pool,
    task: Task,
    shards: Sequence[Shard],
    watcher: Watcher,
    *,
    order: Literal["heaviest", "given"] = "heaviest",
    limits: Limits | None = None,
    tally: Tally | None = None,
) -> Generator[tuple[Shard, pa.Table], None, None]:
    """Work on shards with all workers of the task's lane; yields each shard and its result as it is done.

    A failed shard is tried again, on another worker if there is one. What fails twice is cut in halves along the task's
    unit and those are tried; their results come as the whole shard's. A unit that fails twice on its own is given up:
    the other shards are finished first, then the error names it.

    If the iterator is closed or fails, workers that have work are killed; idle ones stay. Hold it in
    `contextlib.closing` where an exception could keep it alive.

    Args:
        order: heaviest shards first (equal ones as given), so that none of them is left for the end; or as given.
        tally: counts retries and restarts.

    Raises:
        UserError: a worker found a problem of the user's input or machine, or the disk is full.
        StageFailed: rows fail every time; both halves of a shard fail; a worker failed before any shard was done;
            workers had to be replaced too often.
    """
    work = _Work(pool, task, shards, watcher, limits or Limits(), tally if tally is not None else Tally())
    if order == "heaviest":
        work.queue = deque(sorted(work.queue, key=lambda part: -part.weight))
    try:
        yield from work.results()
    finally:
        work.abandon()


@dataclass(eq=False)
class _Progress:
    """The sum over shards, which never goes back, also where a shard's work is lost."""

    watcher: Watcher
    total: int
    finished: int = 0
    tokens: int = 0
    begun: bool = False
    shown: tuple[int, int] = (0, 0)

    def show(self, flights: Iterable[Flight]) -> None:
        """Until the first worker reports there is no total: a rate counts from when work begins, not from loading."""
        under_way = list(flights)
        done = self.finished + sum(flight.pieces for flight in under_way)
        tokens = self.tokens + sum(flight.tokens for flight in under_way)
        self.shown = max(self.shown[0], done), max(self.shown[1], tokens)
        self.watcher.progress(self.shown[0], self.total if self.begun else 0, self.shown[1])


class _Work:
    """One call of `run_shards`."""

    def __init__(
        self, pool: Pool, task: Task, shards: Sequence[Shard], watcher: Watcher, limits: Limits, tally: Tally
    ) -> None:
        self._pool, self._watcher, self._limits, self._tally = pool, watcher, limits, tally
        wholes = [Whole(shard, task.unit) for shard in shards]
        self.queue = deque(Part(whole, 0, whole.shard.table.num_rows) for whole in wholes)
        self._crew = Crew(pool, task, len(shards), limits)
        self._given_up: list[Part] = []
        self._failed_early: set[int] = set()
        self._notes: set[str] = set()
        self._progress = _Progress(watcher, sum(shard.weight for shard in shards))

    def results(self) -> Iterator[tuple[Shard, pa.Table]]:
        if self.queue:
            self._progress.show([])
        while self.queue or self._crew.flights:
            done: list[Whole] = []
            failure: IcrError | None = None
            try:
                self._crew.hand_out(self.queue)
                for event in self._listen():
                    done += self._take(event)
                self._crew.end_hung()
                self._crew.hand_out(self.queue)  # before the caller is busy with what is done
            except IcrError as error:
                failure = error
            self._progress.show(self._crew.flights.values())
            for whole in done:
                yield whole.shard, whole.join()
            if failure:
                raise failure
        if self._given_up:
            raise self._name_given_up()

    def abandon(self) -> None:
        """End the workers that still have work of this call; add up what was counted."""
        self._crew.abandon()
        self._tally.restarts += self._crew.restarts

    # -- what happens

    def _listen(self) -> list[Event]:
        """The pool's events, results first, so that none is lost to a failure that came with it."""
        events = self._pool.collect(LISTEN_SECONDS)
        self._crew.tick()
        return sorted(events, key=lambda event: not isinstance(event, Done))

    def _take(self, event: Event) -> list[Whole]:
        """Deal with an event; gives the shard that is done by it."""
        hand = self._crew.hear(event.worker)
        if hand is None:
            return []
        match event:
            case Done():
                return self._finish(event, hand)
            case Failed():
                self._take_failed(event, hand)
            case Died():
                self._take_died(event)
            case Progress():
                self._take_progress(event)
            case Note(text=text):
                self._note(text)
        return []

    def _finish(self, event: Done, hand: Hand) -> list[Whole]:
        flight = self._crew.land(event.ticket, hand)
        if flight is None:
            return []
        part = flight.part
        self._progress.begun = True
        self._progress.finished += part.weight
        self._progress.tokens += event.counts.get("tokens", 0)
        part.state = "done"
        part.whole.add(part, event.table)
        if part.twin and part.twin.state == "failed":
            self._cut(part.twin)
        return [part.whole] if part.whole.is_done() else []

    def _take_progress(self, event: Progress) -> None:
        flight = self._crew.flights.get(event.ticket)
        if flight is None:
            return
        self._progress.begun = True
        flight.pieces = flight.part.weight * min(event.done, event.total) // max(1, event.total)
        flight.tokens = event.tokens
        if event.status:
            self._watcher.status(event.status)

    def _take_failed(self, event: Failed, hand: Hand) -> None:
        flight = self._crew.flights.pop(event.ticket, None)
        if flight is None:
            return
        if event.failure.by_user or self._is_hopeless(event):
            raise event.failure.as_error()
        hand.failed_in_a_row += 1
        self._lose([flight], event.failure)
        if hand.failed_in_a_row >= FAILED_IN_A_ROW and hand.doomed is None:
            self._note(f"worker {event.worker} is replaced, because it failed {hand.failed_in_a_row} times in a row")
            self._crew.kill(event.worker, set(), "it failed repeatedly")

    def _is_hopeless(self, event: Failed) -> bool:
        """Whether no worker would do better: before anything is done it is an engine that cannot start, or a bug."""
        self._failed_early.add(event.worker.index)
        return not self._crew.finished and len(self._failed_early) >= self._limits.witnesses

    def _take_died(self, event: Died) -> None:
        blamed, lost_with_them = self._crew.bury(event.worker)
        if event.failure.by_user:
            raise event.failure.as_error()
        self.queue.extendleft(flight.part for flight in lost_with_them)
        self._lose(blamed, event.failure)
        if self._crew.restarts >= self._limits.restarts and (self.queue or self._crew.flights):
            raise event.failure.as_error(f"a worker ended, after {self._crew.restarts} had been replaced")

    def _note(self, text: str) -> None:
        """Every worker may say the same; the user reads it once."""
        if text not in self._notes:
            self._notes.add(text)
            self._watcher.note(text)

    # -- what is tried again

    def _lose(self, flights: Sequence[Flight], failure: Failure) -> None:
        """Count a failure of these parts; try them again or cut them."""
        self._crew.call_all()
        again: list[str] = []
        for flight in flights:
            part = flight.part
            part.failures += 1
            part.failed_on.add(flight.worker)
            part.failure = failure
            if part.failures < self._limits.tries:
                self._tally.retries += 1
                self.queue.appendleft(part)
                again += [] if part.whole.noted else [part.whole.shard.name]
                part.whole.noted = True
            else:
                self._settle(part, failure)
        if again:
            log = f" (log: {failure.log})" if failure.log else ""
            self._note(f"shard {', '.join(again)} is tried again, because a worker failed: {failure.what}{log}")

    def _settle(self, part: Part, failure: Failure) -> None:
        """What becomes of a part that failed as often as it may."""
        part.state = "failed"
        if part.twin is None or part.twin.state == "done":
            self._cut(part)
        elif part.twin.state == "failed":
            raise failure.as_error(
                f"both halves of shard {part.whole.shard.name} fail every time: the cause is not a single row"
            )

    def _cut(self, part: Part) -> None:
        """Try the halves of a failed part next; one that cannot be cut is given up."""
        assert part.failure is not None
        halves = part.cut()
        if halves:
            self._tally.cuts += 1
            self.queue.extendleft(reversed(halves))
        elif self._crew.finished:
            self._given_up.append(part)
            self._note(f"{part.describe()} fails every time; the other shards are finished first")
        else:
            raise part.failure.as_error(f"{part.describe()} fails every time")

    def _name_given_up(self) -> IcrError:
        failure = self._given_up[0].failure
        assert failure is not None
        names = "".join(f"\n  {part.describe()}" for part in self._given_up)
        return failure.as_error(f"these rows fail every time; all others are done:{names}\na worker failed")
