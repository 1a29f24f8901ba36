"""A reward model's training on two processes against one: the same pairs, the same optimiser steps, a thread each.

    python -m benchmarks.reward_processes [--json] [--pairs 192] [--batch 32] [--micro 4] [--repeats 2]

Each training is the one that `icr rm train` starts, on two processes by torchrun with gloo. What is timed is from the
end of its first optimiser step to the end of its last one, without start, loading and export; the losses of the steps
have to be equal. The two take turns. A training is pinned to one core a process. Two free cores are needed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.reward_models import make_model
from benchmarks.reward_training import TOLERANCE, Setup, make_spec
from benchmarks.scoring import describe
from icr.base.files import write_text
from icr.work.torchrun import start_command
from loops.callbacks import read_metrics

POLL = 0.01


class Timed(NamedTuple):
    """One training."""

    seconds: float
    losses: list[float]


def train(setup: Setup, processes: int, folder: Path) -> Timed:
    """A training in processes of its own; its steps are seen in the file of its metrics."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        work = Path(name)
        spec = make_spec(setup, work, processes)
        write_text(work / "spec.json", spec.model_dump_json())
        steps, seen, times = setup.pairs // setup.batch, work / "metrics.jsonl", list[float]()
        argv = [*start_command(spec.train, processes), "-m", spec.program, str(work / "spec.json")]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        with open(work / "log", "wb") as log:
            # a training takes as many threads as it has cores: one for each of its processes
            cores = sorted(os.sched_getaffinity(0))[:processes]
            pin = partial(os.sched_setaffinity, 0, cores)
            process = subprocess.Popen(argv, env=env, stdout=log, stderr=subprocess.STDOUT, preexec_fn=pin)
        while process.poll() is None:
            done = seen.read_bytes().count(b"\n") if seen.is_file() else 0
            times += [time.perf_counter()] * (done - len(times))
            time.sleep(POLL)
        if process.returncode or len(times) != steps:
            raise SystemExit((work / "log").read_text()[-4000:])
        return Timed(times[-1] - times[0], [row["loss"] for row in read_metrics(seen)])


def measure(setup: Setup, repeats: int, folder: Path) -> dict[str, Any]:
    """Seconds of both, the median of the turns' ratios, and by how much the loss of a step differs."""
    turns = [(train(setup, 1, folder), train(setup, 2, folder)) for _ in range(repeats)]
    ratios = [one.seconds / two.seconds for one, two in turns]
    one, two = turns[-1]
    return {
        "device": describe("cpu"),
        **setup._asdict(),
        "one_process": float(np.median([one.seconds for one, _ in turns])),
        "two_processes": float(np.median([two.seconds for _, two in turns])),
        "ratio": float(np.median(ratios)),
        "ratios": ratios,
        "largest_difference": float(np.abs(np.array(one.losses) - np.array(two.losses)).max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="a reward model's training on two processes against one")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    parser.add_argument("--pairs", type=int, default=192)
    parser.add_argument("--batch", type=int, default=32, help="pairs of an optimiser step")
    parser.add_argument("--micro", type=int, default=4, help="pairs that go through a process's model at once")
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        setup = Setup(str(make_model(folder / "model")), args.pairs, args.batch, args.micro, False)
        result = measure(setup, args.repeats, folder)
    if result["largest_difference"] > TOLERANCE:
        raise SystemExit(f"the losses of the steps are not equal: {result}")
    print(json.dumps(result) if args.json else text_of(result))


def text_of(result: Mapping[str, Any]) -> str:
    """The figures in words."""
    return (
        f"{result['pairs']} pairs, {result['batch']} a step, {result['micro']} at once, fp32, {result['device']}\n"
        f"one process {result['one_process']:.1f} s, two {result['two_processes']:.1f} s, a thread each: "
        f"{result['ratio']:.2f} times as fast; the loss of a step differs by {result['largest_difference']:.1e} at most"
    )


if __name__ == "__main__":
    main()
