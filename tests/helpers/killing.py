"""A run that is killed again and again; `python -m tests.helpers.killing CONFIG FOLDER` does it on your own config."""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil


def run_with_kills(config: Path, folder: Path, kills: int, seed: int, longest: float = 12.0) -> list[Path]:
    """Start `icr iterate` over and over, SIGKILL it `kills` times at random moments, then let it end.

    Every third kill or so hits one of its processes instead of the driver. A worker's shard is then tried again and
    the command goes on until the next kill; a training's end is the command's, with exit code 1 and no traceback. A run
    that is finished between the kills is followed by a new one for the rest of them. Returns the run folders, all
    finished, and prints what was killed.
    """
    rng = random.Random(seed)
    runs, killed = [folder / "run-1"], 0
    while killed < kills:
        process = subprocess.Popen(
            _command(config, runs[-1]), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        victims = list(_kill_until_it_ends(process, rng, longest))
        _, messages = process.communicate()
        assert "Traceback" not in messages or "a worker" in victims, messages
        assert process.returncode in ((0, -9, 1) if "a worker" in victims else (0, -9)), messages
        if process.returncode == 0:
            runs.append(folder / f"run-{len(runs) + 1}")
        killed += len(victims)
        print(f"killed {', '.join(victims)}; exit code {process.returncode}")
    subprocess.run(_command(config, runs[-1]), check=True, stdout=subprocess.DEVNULL)
    return runs


def _command(config: Path, run: Path) -> list[str]:
    return [sys.executable, "-m", "icr.commands.main", "iterate", "--config", str(config), "--run", str(run)]


def _kill_until_it_ends(process: subprocess.Popen[str], rng: random.Random, longest: float) -> Iterator[str]:
    """Kill the driver or one of its processes, at random; after one of those the command goes on, so again."""
    while True:
        time.sleep(rng.uniform(0.3, longest))
        if process.poll() is not None:
            return
        try:
            workers = psutil.Process(process.pid).children(recursive=True)
            if workers and rng.random() < 0.33:
                rng.choice(workers).kill()
                yield "a worker"
                continue
        except psutil.NoSuchProcess:
            pass  # it ended between the look and the kill
        process.kill()
        if process.wait() == -9:
            yield "the driver"
        return


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=12.0, help="seconds that a start lives at most")
    args = parser.parse_args()
    run_with_kills(args.config, args.run, args.kills, args.seed, args.longest)
