"""A shard on its way: which of its rows are done, how it is cut when it fails, and how its results come together.

A part that failed twice is cut in two halves, its twins. A half that failed twice waits for its twin: if that one comes
through, the fault is in the half's rows, which are cut further; if it fails twice as well, the rows are not to blame.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa

from icr.work.pool import Failure, Shard, WorkerId

SHOWN_VALUES = 4
SHOWN_CHARACTERS = 60


@dataclass(eq=False)
class Whole:
    """One of the caller's shards, and the results of its parts by their first row."""

    shard: Shard
    unit: tuple[str, ...]
    results: dict[int, pa.Table] = field(default_factory=dict)
    rows_done: int = 0
    noted: bool = False
    """Whether the user knows that it is tried again."""

    def add(self, part: Part, result: pa.Table) -> None:
        self.results[part.start] = result
        self.rows_done += part.stop - part.start

    def is_done(self) -> bool:
        return bool(self.results) and self.rows_done == self.shard.table.num_rows

    def join(self) -> pa.Table:
        """The results in the order of the rows that led to them."""
        tables = [self.results[start] for start in sorted(self.results)]
        return tables[0] if len(tables) == 1 else pa.concat_tables(tables, promote_options="default")


@dataclass(eq=False)
class Part:
    """Rows `start` to `stop` of a shard: all of them, until it is cut."""

    whole: Whole
    start: int
    stop: int
    twin: Part | None = None
    state: Literal["open", "done", "failed"] = "open"
    failures: int = 0
    failure: Failure | None = None
    """The last one."""
    failed_on: set[WorkerId] = field(default_factory=set)

    @property
    def table(self) -> pa.Table:
        return self.whole.shard.table.slice(self.start, self.stop - self.start)

    @property
    def weight(self) -> int:
        """Its share of the shard's weight; the shares of a shard's parts add up exactly."""
        rows, weight = self.whole.shard.table.num_rows, self.whole.shard.weight
        return weight * self.stop // rows - weight * self.start // rows if rows else weight

    @property
    def is_suspect(self) -> bool:
        """Whether it runs alone on its worker, so that no other shard is lost with it or blamed for it."""
        return self.failures > 0 or self.twin is not None

    def cut(self) -> tuple[Part, Part] | None:
        """Two halves along the unit, as equal as can be; None if it is one unit."""
        middle = (self.start + self.stop) / 2
        keys = self._keys()
        starts = [self.start + i for i in range(1, len(keys)) if keys[i] != keys[i - 1]]
        if not starts:
            return None
        at = min(starts, key=lambda row: abs(row - middle))
        first, second = Part(self.whole, self.start, at), Part(self.whole, at, self.stop)
        first.twin, second.twin = second, first
        return first, second

    def describe(self) -> str:
        """What its rows are, for a message: the unit's values, or the first short ones of the row."""
        keys = self._keys()
        name = f"shard {self.whole.shard.name}"
        if any(key != keys[0] for key in keys):
            return f"{name}, rows {self.start + 1} to {self.stop}"
        row = self.table.slice(0, 1).to_pylist()[0] if self.stop > self.start else {}
        columns = self.whole.unit or tuple(
            column for column, value in row.items() if isinstance(value, str | int | float | bool) and value != ""
        )
        values = ", ".join(f"{column}={_shorten(row[column])}" for column in columns[:SHOWN_VALUES])
        return f"{name}, row {self.start + 1}" + (f": {values}" if values else "")

    def _keys(self) -> list[Hashable]:
        """What tells the unit of each row."""
        if not self.whole.unit:
            return list(range(self.stop - self.start))
        return list(zip(*(self.table[column].to_pylist() for column in self.whole.unit), strict=True))


def _shorten(value: object) -> str:
    text = str(value).replace("\n", " ")
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
