"""A run that is killed again and again. `python -m tests.killing FOLDER --kills 20` does it on a config of your own."""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil


def run_with_kills(config: Path, run: Path, kills: int, seed: int, longest: float = 12.0) -> list[str]:
    """Start `icr iterate` over and over, SIGKILL it `kills` times at random moments, then let it end.

    Every third kill or so hits one of its workers instead of the controller; then the command has to end by itself,
    with exit code 1 and no traceback. Returns what was killed and when, in words.
    """
    rng = random.Random(seed)
    command = [sys.executable, "-m", "icr.cli", "iterate", "--config", str(config), "--run", str(run)]
    done: list[str] = []
    while len(done) < kills:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        delay = rng.uniform(0.3, longest)
        time.sleep(delay)
        if process.poll() is not None:
            raise AssertionError(f"the run ended after {len(done)} kills: make it longer\n{process.communicate()[1]}")
        workers = psutil.Process(process.pid).children(recursive=True)
        victim = rng.choice(workers) if workers and rng.random() < 0.33 else None
        try:
            (victim or process).kill()
        except psutil.NoSuchProcess:
            process.kill()  # the worker ended between the look and the kill
            victim = None
        _, messages = process.communicate()
        assert process.returncode == (1 if victim else -9), messages
        assert "Traceback" not in messages or victim, messages
        done.append(f"{'a worker' if victim else 'the controller'} after {delay:.1f} s")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return done


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=12.0, help="seconds that a start lives at most")
    args = parser.parse_args()
    for line in run_with_kills(args.config, args.run, args.kills, args.seed, args.longest):
        print("killed", line)
