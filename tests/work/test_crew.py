"""Who gets what and who is taken to hang, on a pool without processes and a clock of the test's own."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import pyarrow as pa
import pytest

from icr.work import crew as crew_module
from icr.work.crew import Crew, Limits
from icr.work.parts import Part, Whole
from icr.work.pool import Event, Pool, Task, WorkerId
from tests.helpers.dummy_worker import Echo, make_shards

LIMITS = Limits(silence=100, floor=300, start=900, factor=10, finished=3)


class PaperPool:
    """Remembers what it was asked to do."""

    def __init__(self, count: int, depth: int = 1) -> None:
        self._ids = [WorkerId("engine", index) for index in range(count)]
        self._depth = depth
        self.sent: list[tuple[int, int, list[int]]] = []
        """Worker, ticket, the rows' numbers."""
        self.killed: list[tuple[int, str]] = []

    def workers(self, lane: str, wanted: int | None = None) -> Sequence[WorkerId]:
        return self._ids[:wanted]

    def depth(self, lane: str) -> int:
        return self._depth

    def submit(self, worker: WorkerId, ticket: int, task: Task, table: pa.Table) -> None:
        self.sent.append((worker.index, ticket, table["number"].to_pylist()))

    def collect(self, timeout: float) -> list[Event]:
        return []

    def kill(self, worker: WorkerId, why: str) -> None:
        self.killed.append((worker.index, why))

    def rest(self, lane: str) -> None:
        pass

    def stop(self, lane: str | None = None) -> None:
        pass


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(crew_module, "time", clock)
    return clock


def queue_of(count: int, rows: int = 1) -> deque[Part]:
    return deque(Part(Whole(shard, ()), 0, rows) for shard in make_shards(count, rows))


def open_crew(pool: Pool, queue: deque[Part]) -> Crew:
    return Crew(pool, Echo(), len(queue), LIMITS)


def let_pass(crew: Crew, clock: Clock, seconds: float, speaking: Sequence[int] = ()) -> None:
    """Time goes by while the driver looks at the pool every second; these workers give signs of life."""
    for _ in range(int(seconds)):
        clock.now += 1
        crew.tick()
        for worker in list(crew.hands):
            if worker.index in speaking:
                crew.hear(worker)
        crew.end_hung()


def finish(crew: Crew, ticket: int) -> None:
    flight = crew.flights[ticket]
    assert crew.land(ticket, crew.hands[flight.worker]) is flight


def test_shards_are_spread_before_a_second_one_goes_to_the_same_worker() -> None:
    pool = PaperPool(3, depth=2)
    queue = queue_of(5)
    open_crew(pool, queue).hand_out(queue)
    assert [worker for worker, _, _ in pool.sent] == [0, 1, 2, 0, 1] and not queue


def test_a_failed_part_waits_for_another_worker_while_there_is_one() -> None:
    pool, queue = PaperPool(2), queue_of(2)
    crew = open_crew(pool, queue)
    crew.hand_out(queue)
    flight = crew.flights.pop(pool.sent[0][1])
    flight.part.failures, flight.part.failed_on = 1, {flight.worker}
    queue.appendleft(flight.part)
    crew.hand_out(queue)
    assert len(pool.sent) == 2  # worker 0 is free, but it is the one where the part failed
    finish(crew, pool.sent[1][1])
    crew.hand_out(queue)
    assert pool.sent[2][0] == 1 and pool.sent[2][2] == [0]


def test_a_failed_part_calls_a_worker_that_was_not_needed_before() -> None:
    pool, queue = PaperPool(2), queue_of(1)
    crew = open_crew(pool, queue)
    crew.hand_out(queue)
    flight = crew.flights.pop(pool.sent[0][1])
    flight.part.failures, flight.part.failed_on = 1, {flight.worker}
    queue.appendleft(flight.part)
    crew.call_all()
    crew.hand_out(queue)
    assert [worker for worker, _, _ in pool.sent] == [0, 1]
    assert crew.restarts == 0  # it is no replacement


def test_a_part_that_failed_everywhere_may_go_anywhere() -> None:
    pool, queue = PaperPool(2), queue_of(1)
    part = queue[0]
    part.failures, part.failed_on = 1, set(pool.workers("engine"))
    open_crew(pool, queue_of(2)).hand_out(queue)
    assert pool.sent[0][2] == [0]


def test_a_suspect_runs_alone_and_only_one_worker_waits_for_it() -> None:
    pool, queue = PaperPool(2, depth=2), queue_of(8)
    crew = open_crew(pool, queue)
    queue[4].failures = 1  # the next after the first four
    crew.hand_out(queue)
    tickets = [ticket for _, ticket, _ in pool.sent]
    finish(crew, tickets[0])  # worker 0 has one left, and gets no more
    crew.hand_out(queue)
    assert len(pool.sent) == 4
    finish(crew, tickets[1])  # worker 1 now has as much; one of the two goes on
    crew.hand_out(queue)
    assert [(worker, rows) for worker, _, rows in pool.sent[4:]] == [(1, [5])]
    finish(crew, tickets[2])  # worker 0 is empty: the suspect is its only part
    crew.hand_out(queue)
    assert [(worker, rows) for worker, _, rows in pool.sent[5:]] == [(0, [4])]


def test_a_worker_is_silent_only_after_its_first_word(clock: Clock) -> None:
    pool, queue = PaperPool(2), queue_of(2)
    crew = open_crew(pool, queue)
    crew.hand_out(queue)
    let_pass(crew, clock, 1, speaking=[0])
    let_pass(crew, clock, 100)
    assert pool.killed == []
    let_pass(crew, clock, 2)
    assert pool.killed == [(0, "no sign of life for 101 s")]
    let_pass(crew, clock, 790)
    assert len(pool.killed) == 1  # the other one may still be importing
    let_pass(crew, clock, 10)
    assert [worker for worker, _ in pool.killed] == [0, 1]


def test_time_in_which_the_driver_does_not_look_is_no_silence(clock: Clock) -> None:
    pool, queue = PaperPool(1), queue_of(1)
    crew = open_crew(pool, queue)
    crew.hand_out(queue)
    let_pass(crew, clock, 1, speaking=[0])
    clock.now += 3600
    crew.tick()
    crew.end_hung()
    assert pool.killed == []


def test_a_shard_hangs_after_ten_times_the_median_and_the_floor(clock: Clock) -> None:
    pool, queue = PaperPool(1), queue_of(5)
    crew = open_crew(pool, queue)
    for seconds in (40, 50, 60):
        crew.hand_out(queue)
        let_pass(crew, clock, seconds, speaking=[0])
        finish(crew, pool.sent[-1][1])
    crew.hand_out(queue)
    let_pass(crew, clock, 500, speaking=[0])
    assert pool.killed == []
    let_pass(crew, clock, 1, speaking=[0])
    assert pool.killed == [(0, "shard 00003 ran for 501 s")]
    blamed, others = crew.bury(pool.workers("engine")[0])
    assert [flight.part.whole.shard.name for flight in blamed] == ["00003"] and others == []


def test_no_shard_hangs_before_three_are_done(clock: Clock) -> None:
    pool, queue = PaperPool(1), queue_of(3)
    crew = open_crew(pool, queue)
    for _ in range(2):
        crew.hand_out(queue)
        let_pass(crew, clock, 1, speaking=[0])
        finish(crew, pool.sent[-1][1])
    crew.hand_out(queue)
    let_pass(crew, clock, 5000, speaking=[0])
    assert pool.killed == []


def test_a_workers_first_shard_has_time_to_load_a_model(clock: Clock) -> None:
    pool, queue = PaperPool(2), queue_of(4)
    crew = open_crew(pool, queue)
    crew.hand_out(queue)
    first = pool.sent[0][1]
    for _ in range(3):
        let_pass(crew, clock, 1, speaking=[0, 1])
        finish(crew, next(ticket for ticket in crew.flights if ticket != first))
        crew.hand_out(queue)
    let_pass(crew, clock, 320, speaking=[0, 1])
    assert pool.killed == []
    let_pass(crew, clock, 580, speaking=[0, 1])
    assert [worker for worker, _ in pool.killed] == [0]


def test_a_heavier_shard_has_more_time(clock: Clock) -> None:
    pool, queue = PaperPool(1), deque([*queue_of(3), *queue_of(1, rows=4)])
    crew = open_crew(pool, queue)
    for _ in range(3):
        crew.hand_out(queue)
        let_pass(crew, clock, 50, speaking=[0])
        finish(crew, pool.sent[-1][1])
    crew.hand_out(queue)
    let_pass(crew, clock, 2000, speaking=[0])
    assert pool.killed == []
    let_pass(crew, clock, 1, speaking=[0])
    assert len(pool.killed) == 1
