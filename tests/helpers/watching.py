"""A watcher that remembers what it was shown, and a run of shards whose results are kept as they come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import psutil
import pyarrow as pa

from icr.work.crew import Limits
from icr.work.pool import Pool, Shard, Task
from icr.work.shard_queue import Tally, run_shards


@dataclass
class Run:
    """What came of `run_shards`: results by the shard's name in order of completion, and what was shown."""

    results: dict[str, pa.Table] = field(default_factory=dict)
    shown: list[tuple[int, int, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    statuses: list[str] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)

    def progress(self, done: int, total: int, tokens: int) -> None:
        self.shown.append((done, total, tokens))

    def note(self, text: str) -> None:
        self.notes.append(text)

    def status(self, text: str) -> None:
        self.statuses.append(text)

    def run(self, pool: Pool, task: Task, shards: Sequence[Shard], limits: Limits | None = None) -> Run:
        for shard, table in run_shards(pool, task, shards, self, limits=limits, tally=self.tally):
            assert shard.name not in self.results
            self.results[shard.name] = table
        return self

    @property
    def retold(self) -> list[str]:
        """Notes about what is tried again."""
        return [note for note in self.notes if "tried again" in note]

    def check(self, shards: Sequence[Shard]) -> None:
        """Every shard came once with the right rows in the right order."""
        assert set(self.results) == {shard.name for shard in shards}
        for shard in shards:
            numbers = shard.table["number"].to_pylist()
            assert self.results[shard.name]["number"].to_pylist() == numbers
            assert self.results[shard.name]["double"].to_pylist() == [2 * n for n in numbers]

    def pids(self) -> set[int]:
        """Processes whose results came."""
        return {pid for table in self.results.values() for pid in table["pid"].to_pylist()}


def is_alive(pid: int) -> bool:
    """Whether a process still runs; one that waits to be reaped does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
