"""The pool of workers on shards that only sleep: what a second worker is worth, and what a shard costs beside its work.

    python -m benchmarks.pool [--json] [--shards 60]

Workers have started before any time is taken. Two workers against one is the ratio of their times for the same shards;
the slow worker takes three times as long for everything, and the ideal is a queue that both leave at the same moment.
The overhead of a shard is the time of shards that do no work at all: its way there and back, empty and with 1 MB.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from icr.base.progress import Silent
from icr.work.local_pool import Lane, LocalPool
from icr.work.pool import Pool, Shard, Task
from icr.work.shard_queue import run_shards
from tests.helpers.dummy_worker import Echo, Sleep, make_shards

ROOT = Path(__file__).parents[1]
SECONDS = 0.1
SLOW = 3.0


def measure(shards: int) -> dict[str, float]:
    """Seconds of each trial, and what they come to."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        even = Sleep(folder=str(folder / "even"), seconds=SECONDS)
        uneven = Sleep(folder=str(folder / "uneven"), seconds=SECONDS, slow=SLOW)
        one = _time_workers(folder, 1, even, shards)
        two = _time_workers(folder, 2, even, shards)
        slow = _time_workers(folder, 2, uneven, shards)
        empty = pa.table({"number": [1]})
        large = pa.table({"text": ["x" * 1000] * 1000})
        with _open_pool(folder, 1) as pool:
            _time(pool, Echo(), [Shard("first", empty)])
            bare = _time(pool, Echo(), [Shard(str(i), empty) for i in range(10 * shards)]) / (10 * shards)
            carrying = _time(pool, Echo(), [Shard(str(i), large) for i in range(shards)]) / shards
    ideal = shards * SECONDS / (1 + 1 / SLOW)
    return {
        "shards": shards,
        "one_worker_seconds": one,
        "two_workers_seconds": two,
        "two_to_one": one / two,
        "slow_worker_seconds": slow,
        "slow_worker_ideal_seconds": ideal,
        "slow_worker_to_ideal": slow / ideal,
        "overhead_milliseconds": 1000 * bare,
        "overhead_1mb_milliseconds": 1000 * carrying,
    }


def _open_pool(folder: Path, count: int) -> LocalPool:
    env = {"PYTHONPATH": str(ROOT)}
    return LocalPool(folder, {"engine": Lane(count)}, "tests.helpers.dummy_worker", env=env)


def _time_workers(folder: Path, count: int, task: Sleep, shards: int) -> float:
    Path(task.folder).mkdir(exist_ok=True)
    with _open_pool(folder, count) as pool:
        # as many as there are workers: each has to be there before all are done
        _time(pool, task.model_copy(update={"seconds": 0.0}), make_shards(count))
        return _time(pool, task, make_shards(shards))


def _time(pool: Pool, task: Task, shards: Sequence[Shard]) -> float:
    started = time.perf_counter()
    for _ in run_shards(pool, task, shards, Silent()):
        pass
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description="the pool of workers on shards that only sleep")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--shards", type=int, default=60, help=f"shards of {SECONDS} s")
    args = parser.parse_args()
    r = measure(args.shards)
    if args.json:
        print(json.dumps(r))
        return
    print(f"{args.shards} shards of {SECONDS} s")
    print(f"two workers  {r['two_to_one']:.2f} times as fast as one")
    print(f"one of two {SLOW:.0f} times slower  {r['slow_worker_to_ideal']:.3f} of the ideal time")
    print(f"overhead     {r['overhead_milliseconds']:.2f} ms a shard")
    print(f"  with 1 MB  {r['overhead_1mb_milliseconds']:.2f} ms")


if __name__ == "__main__":
    main()
