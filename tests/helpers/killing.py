"""A run that is killed again and again; `python -m tests.helpers.killing CONFIG FOLDER` does it on your own config."""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil


def run_with_kills(config: Path, folder: Path, kills: int, seed: int, longest: float = 12.0) -> list[Path]:
    """Start `icr iterate` over and over, SIGKILL it `kills` times at random moments, then let it end.

    Every third kill or so hits one of its processes instead of the driver. A worker's shard is then tried again and
    the command goes on; a training's end is the command's, with exit code 1 and no traceback. A run that is finished
    between the kills is followed by a new one for the rest of them. Returns the run folders, all finished, and prints
    what was killed and when.
    """
    rng = random.Random(seed)
    runs, killed = [folder / "run-1"], 0
    while killed < kills:
        process = subprocess.Popen(
            _command(config, runs[-1]), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        delay = rng.uniform(0.3, longest)
        time.sleep(delay)
        victim = _kill(process, rng)
        _, messages = process.communicate()
        assert "Traceback" not in messages or victim == "a worker", messages
        assert process.returncode in ((0, 1) if victim == "a worker" else (0, -9)), messages
        if process.returncode == 0:
            runs.append(folder / f"run-{len(runs) + 1}")
        if process.returncode == 0 and victim == "the driver":
            continue  # the run was over before the kill
        killed += 1
        print(f"killed {victim} after {delay:.1f} s, exit code {process.returncode}")
    subprocess.run(_command(config, runs[-1]), check=True, stdout=subprocess.DEVNULL)
    return runs


def _command(config: Path, run: Path) -> list[str]:
    return [sys.executable, "-m", "icr.commands.main", "iterate", "--config", str(config), "--run", str(run)]


def _kill(process: subprocess.Popen[str], rng: random.Random) -> str:
    """Kill the driver or one of its workers; names the victim, which may have ended just before."""
    try:
        workers = psutil.Process(process.pid).children(recursive=True)
        if workers and rng.random() < 0.33:
            rng.choice(workers).kill()
            return "a worker"
    except psutil.NoSuchProcess:
        pass  # it ended between the look and the kill
    process.kill()
    return "the driver"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=12.0, help="seconds that a start lives at most")
    args = parser.parse_args()
    run_with_kills(args.config, args.run, args.kills, args.seed, args.longest)
