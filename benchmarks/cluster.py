"""What a cluster loses: engines, drivers and nodes are killed again and again, and what the driver itself costs.

    python -m benchmarks.cluster [--json] [--engine-kills 10] [--driver-kills 20] [PART...]

PART: engines, drivers, stop, store, nodes; without one all of them. Two Ray nodes on this machine; engines are dummies
that sleep, but for `nodes`, which is a run of tiny models. A part that does not hold ends the benchmark with an error.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil

from benchmarks.cluster_nodes import kill_nodes
from benchmarks.cluster_shared import WAIT, Figures, check, environment, find_engines, wait_until
from icr.base.progress import Silent
from icr.config.schema import Cluster
from icr.work.crew import Limits
from icr.work.local_pool import Lane, LocalPool
from icr.work.pool import Pool
from icr.work.ray_cluster import connect
from icr.work.ray_pool import RayPool
from icr.work.shard_queue import Tally
from icr.work.shards import ShardFolder
from tests.helpers.dummy_worker import Sleep, Write, make_shards
from tests.helpers.ray_nodes import ROOT, Nodes, find, open_nodes
from tests.helpers.watching import Run

LIMITS = Limits(tries=3, witnesses=2)
SHARDS, ROWS, SECONDS = 60, 4, 0.25
"""Of the runs with dummies: sleeping takes 30 s on two engines."""
GONE_SECONDS = 10.0
RESPONSES, SAMPLES, TOKENS, SHARD = 7500, 10, 450, 64
RATE = 242.0
"""Responses a second of eight H100 by arithmetic, which 150,000 take 618 s."""
STORE = 2**30


def kill_engines(nodes: Nodes, folder: Path, kills: int) -> Figures:
    """SIGKILL random engines in one run."""
    shards, run, victims = make_shards(SHARDS, rows=ROWS), Run(), list[int]()
    choose = random.Random(0)
    ended = threading.Event()

    def kill() -> None:
        """At random moments, spread over the run by what is done: a new engine takes time to start."""
        for at in range(kills):
            while len(run.results) < at * SHARDS // (kills + 1) and not ended.wait(0.02):
                pass
            if not ended.wait(choose.uniform(0, ROWS * SECONDS)) and (found := find_engines()):
                victims.append(choose.choice(found).pid)
                os.kill(victims[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    task = Sleep(folder=str(folder), seconds=SECONDS, counted=True)
    began = time.monotonic()
    with open_pool(folder) as pool:
        wait_until(lambda: len(pool.workers("engine")) == 2)
        killer.start()
        run.run(pool, task, shards, LIMITS)
        ended.set()
    killer.join()
    run.check(shards)
    begun = Counter(path.name.split("-")[1] for path in folder.glob("began-*"))
    check(len(victims) == kills, f"{len(victims)} engines were killed")
    check(max(begun.values()) <= 3, f"a shard was begun {max(begun.values())} times")
    return {
        "kills": len(victims),
        "shards": SHARDS,
        "begun_most": max(begun.values()),
        "begun_again": sum(count - 1 for count in begun.values()),
        "seconds": time.monotonic() - began,
        "undisturbed_seconds": SHARDS * ROWS * SECONDS / 2,
    }


def kill_drivers(nodes: Nodes, folder: Path, kills: int) -> Figures:
    """SIGKILL the driver at random moments, and start the same command again; once a second one beside it."""
    choose, gone, refused = random.Random(0), list[float](), 0
    done = ShardFolder(folder / "shards").path
    for at in range(kills):
        process = drive(folder)
        wait_until(partial(_goes_on, done, len(list(done.glob("*.parquet"))), process))
        if at == 0:
            second = drive(folder)
            check(second.wait(WAIT) == 2, "a second driver was not refused")
            refused += 1
        time.sleep(choose.uniform(0, 2 * ROWS * SECONDS / 10))
        below = [child for host in find("ray::Host") for child in host.children(recursive=True)]
        process.kill()
        process.wait()
        began = time.monotonic()
        left = psutil.wait_procs(below, timeout=GONE_SECONDS)[1]
        check(not left, f"{len(left)} processes outlived the driver by {GONE_SECONDS} s")
        gone.append(time.monotonic() - began)
    last = drive(folder)
    check(last.wait(WAIT) == 0, "the last driver failed")
    shards = make_shards(SHARDS * 10, rows=ROWS)
    for shard, table in zip(shards, ShardFolder(done).read(shards), strict=True):
        check(table["double"].to_pylist() == [2 * n for n in shard.table["number"].to_pylist()], "other results")
    return {"kills": kills, "shards": len(shards), "gone_seconds": max(gone), "second_refused": refused}


def drive_here(folder: Path) -> None:
    """A driver: the same shards as ever; what is there already is not done again."""
    from icr.base.errors import UserError

    shards = make_shards(SHARDS * 10, rows=ROWS)
    try:
        with open_pool(folder) as pool:
            task = Sleep(folder=str(folder), seconds=SECONDS / 10)
            ShardFolder(folder / "shards").fill(pool, task, shards, Silent(), Tally(), LIMITS)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def stop_engine(nodes: Nodes, folder: Path) -> Figures:
    """SIGSTOP an engine in a shard: after so long without a sign of life, the shard is done elsewhere."""
    silence = 5.0
    shards, run, stopped = make_shards(12, rows=ROWS), Run(), list[float]()

    def stop() -> None:
        os.kill(find_engines()[0].pid, signal.SIGSTOP)
        stopped.append(time.monotonic())

    with open_pool(folder) as pool:
        wait_until(lambda: len(pool.workers("engine")) == 2)
        Run().run(pool, Sleep(folder=str(folder)), make_shards(2), LIMITS)
        timer = threading.Timer(1.5 * SECONDS, stop)
        timer.start()
        run.run(pool, Sleep(folder=str(folder), seconds=SECONDS), shards, Limits(silence=silence, tries=3))
        seconds = time.monotonic() - stopped[0]
    run.check(shards)
    check(run.tally.retries == 1 and "no sign of life" in run.retold[0], f"it was not noticed: {run.notes}")
    check(seconds < silence + 10, f"the shard was done {seconds:.0f} s after its engine was stopped")
    return {"silence_seconds": silence, "all_done_after_seconds": seconds}


def measure_store(nodes: Nodes, folder: Path) -> Figures:
    """The object store's peak and the driver's share of a CPU, as responses come at the pace of eight H100."""
    prompts = RESPONSES // SAMPLES
    shards = make_shards(-(-prompts // SHARD), rows=SHARD)
    task = Write(samples=SAMPLES, tokens=TOKENS, rate=RATE / 2)
    with open_pool(folder) as pool:
        wait_until(lambda: len(pool.workers("engine")) == 2)
        list(Run().run(pool, Sleep(folder=str(folder)), make_shards(2), LIMITS).results)
        with watch_store() as peak:
            began, cpu = time.monotonic(), time.process_time()
            ShardFolder(folder / "shards").fill(pool, task, shards, Silent(), Tally(), LIMITS)
            seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    size = sum(path.stat().st_size for path in (folder / "shards").glob("*.parquet"))
    check(max(peak) < 300e6, f"the object store held {max(peak) / 1e6:.0f} MB")
    return {
        "responses": len(shards) * SHARD * SAMPLES,
        "seconds": seconds,
        "store_peak_mb": max(peak) / 1e6,
        "driver_cpu_seconds": cpu,
        "driver_percent_of_a_cpu": 100 * cpu / seconds,
        "written_mb": size / 1e6,
    }


# -- what the parts share


@contextmanager
def open_pool(folder: Path) -> Iterator[Pool]:
    connect(Cluster(address="auto"))
    here = LocalPool(folder, {"single": Lane(1)})
    env = {"PYTHONPATH": str(ROOT)}
    pool = RayPool(folder, {"engine": Lane(1)}, here, 2, module="tests.helpers.dummy_worker", env=env)
    try:
        yield pool
    finally:
        pool.stop()


@contextmanager
def watch_store() -> Iterator[list[int]]:
    """Looks at all nodes' object stores now and then, from a process of its own; at the end gives the bytes in use."""
    import ray

    seen: list[int] = []
    watcher = ray.remote(num_cpus=0, max_concurrency=2)(StoreWatcher).remote()
    ray.get(watcher.ready.remote())
    addresses = [(n["NodeManagerAddress"], n["NodeManagerPort"]) for n in ray.nodes() if n["Alive"]]
    looking = watcher.look.remote(addresses)
    try:
        yield seen
    finally:
        ray.get(watcher.end.remote())
        seen += ray.get(looking)
        ray.kill(watcher)
    check(len(seen) > 1, "the object stores could not be looked at")


class StoreWatcher:
    """An actor, as looking costs more than what it looks at."""

    def __init__(self) -> None:
        self._ended = threading.Event()

    def ready(self) -> None:
        """Answers once it is there."""

    def look(self, addresses: list[tuple[str, int]]) -> list[int]:
        from ray._private.internal_api import node_stats

        seen = []
        while not self._ended.wait(0.2):
            found = [
                node_stats(address, port, False).store_stats.object_store_bytes_used for address, port in addresses
            ]
            seen.append(sum(found))
        return seen

    def end(self) -> None:
        self._ended.set()


def _goes_on(done: Path, before: int, process: subprocess.Popen[bytes]) -> bool:
    return len(list(done.glob("*.parquet"))) > before or ended(process)


def drive(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "benchmarks.cluster", "--drive", str(folder)]
    return subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)


def ended(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is not None


def main() -> None:
    parser = argparse.ArgumentParser(description="what a cluster loses, and what its driver costs")
    parser.add_argument("parts", nargs="*", metavar="PART", help="engines, drivers, stop, store, nodes")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--engine-kills", type=int, default=10)
    parser.add_argument("--driver-kills", type=int, default=20)
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.drive:
        drive_here(args.drive)
        return
    parts: dict[str, Callable[[Nodes, Path], Figures]] = {
        "engines": lambda nodes, folder: kill_engines(nodes, folder, args.engine_kills),
        "drivers": lambda nodes, folder: kill_drivers(nodes, folder, args.driver_kills),
        "stop": stop_engine,
        "store": measure_store,
        "nodes": kill_nodes,
    }
    found: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory() as name, open_nodes(Path(name), STORE) as nodes:
        for part in args.parts or parts:
            folder = Path(name) / part
            folder.mkdir()
            found[part] = parts[part](nodes, folder)
            if not args.json:
                print(f"{part}: " + ", ".join(f"{key} {value:.4g}" for key, value in found[part].items()), flush=True)
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
