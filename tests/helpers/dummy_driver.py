"""`python -m tests.helpers.dummy_driver FOLDER MODE`: a driver with two workers, to be killed.

MODE: `busy`, each worker has started processes of its own and hangs; `idle`, each has done a shard and waits; `forked`,
likewise, and a child of the driver's has all that the driver had open.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from icr.base.progress import Silent
from icr.work.local_pool import Lane, LocalPool
from icr.work.shard_queue import run_shards
from tests.helpers.dummy_worker import Sleep, make_shards


def main() -> None:
    folder, mode = Path(sys.argv[1]), sys.argv[2]
    pool = LocalPool(folder, {"engine": Lane(2)}, "tests.helpers.dummy_worker")
    task = Sleep(folder=str(folder), seconds=600 if mode == "busy" else 0.5)
    for _ in run_shards(pool, task, make_shards(2, deeds={0: "spawn", 1: "spawn"}), Silent()):
        pass
    if mode == "forked" and os.fork() == 0:
        (folder / f"fork-{os.getpid()}").touch()
        time.sleep(600)
    (folder / "idle").touch()
    time.sleep(600)


if __name__ == "__main__":
    main()
