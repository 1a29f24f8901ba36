"""Tables cut into shards, and the folder that takes their results. A shard whose file exists is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from icr.base.files import write_table
from icr.work.crew import Limits
from icr.work.launch import Watcher
from icr.work.pool import Pool, Shard, Task
from icr.work.shard_queue import Tally, run_shards

GPU_SHARD = 128
"""Most prompts a shard on a GPU, so that every engine has work until the end."""


def shard_size(asked: int, gpus: int) -> int:
    """Prompts a shard: as `sampling.shard_size` asks; on a GPU at most GPU_SHARD.

    A step's key has what was asked and not this number: keys are made of settings and inputs alone, so that a run has
    the same ones on every machine that looks at it, plans it or goes on with it.
    """
    return min(asked, GPU_SHARD) if gpus else asked


def cut_table(table: pa.Table, size: int, unit: Sequence[str] = (), *, each: int = 1) -> list[Shard]:
    """The table in pieces of `size` units, named by their number.

    Args:
        unit: consecutive rows that agree in these columns are one unit; (): each row is.
        each: pieces of progress that a row counts for.
    """
    if not table.num_rows:
        return []
    starts = _find_units(table, unit)[::size]
    ends = [*starts[1:], table.num_rows]
    return [
        Shard(f"{number:05d}", table.slice(start, end - start), (end - start) * each)
        for number, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]


def _find_units(table: pa.Table, unit: Sequence[str]) -> list[int]:
    """The rows at which a unit begins."""
    if not unit:
        return list(range(table.num_rows))
    keys = list(zip(*(table[name].to_pylist() for name in unit), strict=True))
    return [row for row, key in enumerate(keys) if row == 0 or key != keys[row - 1]]


@dataclass(frozen=True)
class ShardFolder:
    """Where the results of shards are, one parquet file each."""

    path: Path

    def file(self, shard: Shard) -> Path:
        return self.path / f"{shard.name}.parquet"

    def missing(self, shards: Sequence[Shard]) -> list[Shard]:
        return [shard for shard in shards if not self.file(shard).exists()]

    def fill(
        self,
        pool: Pool,
        task: Task,
        shards: Sequence[Shard],
        watcher: Watcher,
        tally: Tally,
        limits: Limits | None = None,
    ) -> None:
        """Have the missing shards worked on; each is written, whole, as it comes.

        Raises:
            UserError, StageFailed: as `run_shards`; what was finished is kept.
        """
        missing = self.missing(shards)
        watcher = _Continued(watcher, sum(s.weight for s in shards) - sum(s.weight for s in missing))
        with closing(run_shards(pool, task, missing, watcher, limits=limits, tally=tally)) as results:
            for shard, table in results:
                write_table(self.file(shard), table)

    def read(self, shards: Sequence[Shard]) -> Iterator[pa.Table]:
        """The results in the order of the shards; every one has to be there."""
        for shard in shards:
            yield pq.read_table(self.file(shard))


class _Continued:
    """Progress of what is left, shown as progress of the whole."""

    def __init__(self, watcher: Watcher, done: int) -> None:
        self._watcher, self._done = watcher, done

    def progress(self, done: int, total: int, tokens: int) -> None:
        # without a total nothing is known yet, also of what was done before
        self._watcher.progress(self._done + done, self._done + total if total else 0, tokens)

    def note(self, text: str) -> None:
        self._watcher.note(text)

    def status(self, text: str) -> None:
        self._watcher.status(text)
