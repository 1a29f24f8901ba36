"""A list of work cut into consecutive shards. A shard whose file exists is done; that is how work resumes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from icr.base.files import read_rows

T = TypeVar("T")


@dataclass(frozen=True)
class Shards(Generic[T]):
    """`items` in pieces of `size`; the rows that a piece led to lie in one parquet file in `folder`."""

    folder: Path
    items: list[T]
    size: int

    def __len__(self) -> int:
        return -(-len(self.items) // self.size)

    def path(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.parquet"

    def part(self, shard: int) -> list[T]:
        return self.items[shard * self.size : (shard + 1) * self.size]

    def of_worker(self, index: int, of: int) -> list[int]:
        """The unfinished shards that worker `index` of `of` takes."""
        return [s for s in range(index, len(self), of) if not self.path(s).exists()]

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of all shards, in order; every shard has to be there."""
        for shard in range(len(self)):
            yield from read_rows(self.path(shard))
