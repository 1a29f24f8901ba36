"""What a pool of workers is: tasks and shards that go in, events that come out.

A pool is transport alone. What is tried again, where, and how often is decided in `icr.work.shard_queue`, so that
every kind of pool (processes of this machine, a cluster) behaves in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from icr.base.errors import StageFailed, UserError


class Task(BaseModel):
    """What to do with a table, shared by all shards of one piece of work. One subclass per registered function."""

    model_config = ConfigDict(frozen=True)

    name: ClassVar[str]
    """The name that the worker's function is registered under."""
    lane: ClassVar[str]
    """Workers of different lanes are different processes with different resident state."""
    unit: ClassVar[tuple[str, ...]] = ()
    """Consecutive rows that agree in these columns are never cut apart; (): each row is a unit."""


@dataclass(frozen=True, eq=False)
class Shard:
    """A piece of the input. `weight`: pieces of progress that it counts for; negative means its number of rows."""

    name: str
    table: pa.Table
    weight: int = -1

    def __post_init__(self) -> None:
        if self.weight < 0:
            object.__setattr__(self, "weight", self.table.num_rows)


@dataclass(frozen=True)
class WorkerId:
    """One process. A replacement has the same lane and index and the next generation."""

    lane: str
    index: int
    generation: int = 0

    def __str__(self) -> str:
        return f"{self.lane}-{self.index}"


@dataclass(frozen=True)
class Failure:
    """Why a worker failed. `by_user`: the cause is the user's input or machine, so no other worker could do better."""

    what: str
    where: str = ""
    do: str = ""
    by_user: bool = False
    log: str = ""
    tail: str = ""
    """The last lines of the log."""

    def as_error(self, what: str = "") -> UserError | StageFailed:
        """The exception to raise; `what` goes before the reason of a worker that is not to blame the user."""
        if self.by_user:
            return UserError(self.what, where=self.where, do=self.do)
        lines = [f"{what or 'a worker failed'}: {self.what}"]
        lines += [f"  log: {self.log}"] if self.log else []
        lines += [self.tail] if self.tail else []
        return StageFailed("\n".join(lines))


@dataclass(frozen=True)
class Done:
    """A shard's result. `counts`: "tokens", all that the function reported for it."""

    worker: WorkerId
    ticket: int
    table: pa.Table
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed:
    """The function raised; the worker lives."""

    worker: WorkerId
    ticket: int
    failure: Failure


@dataclass(frozen=True)
class Died:
    """The worker's process ended, by itself or by `Pool.kill`; all that it was working on is lost."""

    worker: WorkerId
    failure: Failure


@dataclass(frozen=True)
class Progress:
    """`done` of `total` pieces of a shard; `tokens` since its start."""

    worker: WorkerId
    ticket: int
    done: int
    total: int
    tokens: int
    status: str = ""


@dataclass(frozen=True)
class Note:
    """One line for the user."""

    worker: WorkerId
    text: str


@dataclass(frozen=True)
class Alive:
    """A sign of life: a worker that has work sends one about twice a second."""

    worker: WorkerId


Event = Done | Failed | Died | Progress | Note | Alive


class Pool(Protocol):
    """Workers and the way to them. Used by one caller at a time; what it collects is for that caller."""

    def workers(self, lane: str, wanted: int | None = None) -> Sequence[WorkerId]:
        """The first `wanted` workers of a lane (None: all), after starting those that are not running."""

    def warm(self, lane: str, modules: Sequence[str]) -> None:
        """Start the lane's workers now, and let them import these modules while there is no work for them."""

    def depth(self, lane: str) -> int:
        """Shards that a worker of the lane may have in flight."""

    def submit(self, worker: WorkerId, ticket: int, task: Task, table: pa.Table) -> None:
        """Send a shard without waiting. If the worker has ended, the shard is lost and `Died` is still to come."""

    def collect(self, timeout: float) -> list[Event]:
        """What has happened; waits at most `timeout` seconds for something to."""

    def kill(self, worker: WorkerId, why: str) -> None:
        """End a worker and all its descendants now. `collect` then gives a `Died` with `why`."""

    def rest(self, lane: str) -> None:
        """Make the lane's workers, which must have nothing in flight, give device memory back; returns when it is."""

    def stop(self, lane: str | None = None) -> None:
        """End the workers of a lane, or all of them, and their descendants."""
