"""A command that is killed again and again, without the seconds that each start takes to import and to warm up.

`python -m tests.helpers.forked FILE` imports everything, runs each job once in peace, and then forks: a fork is the
same command on another folder, and SIGKILL ends it. FILE is a JSON list of `Job`. All is done on one core and by one
thread: others do not survive a fork, and sums in another order differ in their last bits.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NotRequired, TypedDict

HEAVY = (
    "icr.commands.worker", "icr.experiments.transfer", "icr.report.transfer", "loops.reward_trainer", "loops.train",
    "loops.trainers", "transformers.models.bert.modeling_bert", "transformers.models.llama.modeling_llama",
)  # fmt: skip
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


class Job(TypedDict):
    command: list[str]
    """Of `icr`, without --run."""
    calm: str
    """The run folder of the command in peace."""
    killed: str
    """That of the one that is killed."""
    kills: int
    training: int
    """Every so many kills, the moment is one inside a training: when its metrics have grown."""
    longest: float
    """Seconds until any other kill, at most."""
    inline: bool
    """Workers and trainings of the killed command are in the fork itself; else they are processes of their own."""
    nodes: NotRequired[int]
    """How many nodes of a cluster the killed command has. They are only pretended."""
    again: NotRequired[bool]
    """Whether a run that ends before all kills is kept as `killed`-NUMBER and followed by another."""
    asked: NotRequired[str]
    """A file that gets a line for each question to an endpoint. If given, every kill is while it is asked about round 1
    and round 2 goes on: first as that one samples, then after one more question each time."""


class Start(TypedDict):
    """How one start of the killed command ended."""

    ended: int
    """Exit code, or minus the signal."""
    inside: bool
    """It had made steps of a training."""
    finished: dict[str, float]
    """When each finished step was."""


def kill_forks(folder: Path, jobs: list[Job], timeout: float = 400) -> list[list[Start]]:
    """Run each job in peace, and with kills until its end. Returns the starts of each."""
    file = folder / "jobs.json"
    file.write_text(json.dumps(jobs))
    command = [sys.executable, "-m", "tests.helpers.forked", str(file)]
    environment = {**os.environ, **ONE_THREAD}
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    starts: list[list[Start]] = json.loads(done.stdout.splitlines()[-1])
    return starts


def _run(job: Job) -> list[Start]:
    import pytest
    from accelerate.state import AcceleratorState

    from tests.helpers.inline import run_inline, share_inline

    patch = pytest.MonkeyPatch()
    run_inline(patch)
    _command(job["command"], job["calm"])
    AcceleratorState._reset_state(reset_partial_state=True)
    if not job["inline"]:
        patch.undo()
    if "nodes" in job:
        share_inline(patch, job["nodes"])
    starts = _kill(job)
    patch.undo()
    return starts


def _kill(job: Job) -> list[Start]:
    rng, run, starts, killed = random.Random(7), Path(job["killed"]), list[Start](), 0
    while True:
        steps, child = _count_steps(run), os.fork()
        if not child:
            _be(job)
        if killed < job["kills"]:
            _wait(child, _moment(job, len(starts), rng, run, steps))
            os.kill(child, signal.SIGKILL)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        starts.append({"ended": ended, "inside": _count_steps(run) > steps, "finished": _finished(run)})
        killed += ended == -signal.SIGKILL
        if ended == 0 and killed < job["kills"] and job.get("again"):
            run.rename(f"{run}-{len(starts)}")
        elif ended != -signal.SIGKILL:
            return starts


def _moment(job: Job, number: int, rng: random.Random, run: Path, steps: int) -> Callable[[], bool]:
    """Whether it is time for a kill."""
    if "asked" in job:
        file, wanted = Path(job["asked"]), _count_lines(Path(job["asked"])) + number
        return lambda: _goes_on_beside(run) and (_count_lines(file) > wanted if number else _samples(run))
    if number % job["training"] == 0:
        return lambda: _count_steps(run) >= steps + 2
    end = time.monotonic() + rng.uniform(0.1, job["longest"])
    return lambda: time.monotonic() > end


def _wait(child: int, ready: Callable[[], bool]) -> None:
    """Until it is time or the child has ended, which stays to be waited for."""
    while not ready() and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.02)


def _goes_on_beside(run: Path) -> bool:
    """Whether round 2 has begun before the judge of round 1 is done."""
    return _read_stages(run / "round-1").get("judge") == "running" and bool(_read_stages(run / "round-2"))


def _samples(run: Path) -> bool:
    return _read_stages(run / "round-2").get("sample") == "running"


def _read_stages(at: Path) -> dict[str, str]:
    """Stage → state of a round."""
    file = at / "round.json"
    stages: dict[str, Any] = json.loads(file.read_text())["stages"] if file.exists() else {}
    return {name: record["state"] for name, record in stages.items()}


def _count_steps(run: Path) -> int:
    # not `glob`, which fails where the command removes a folder meanwhile
    return sum(_count_lines(Path(at) / "metrics.jsonl") for at, _, names in os.walk(run) if "metrics.jsonl" in names)


def _count_lines(file: Path) -> int:
    return len(file.read_text().splitlines()) if file.exists() else 0


def _finished(run: Path) -> dict[str, float]:
    records: dict[str, Any] = {
        str(f.parent.relative_to(run)): json.loads(f.read_text()) for f in run.glob("**/step.json")
    }
    return {name: record["finished"] for name, record in records.items() if record["state"] == "done"}


def _be(job: Job) -> None:
    """Be the command; its messages go to a file beside the run's folder."""
    import traceback

    log = os.open(f"{job['killed']}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = 1
    try:
        _command([*job["command"], *(["--cluster", "auto"] if "nodes" in job else [])], job["killed"])
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def _command(command: list[str], run: str) -> None:
    from icr.commands.main import app

    app([*command, "--run", run], standalone_mode=False)


if __name__ == "__main__":
    import torch

    for name in HEAVY:
        importlib.import_module(name)
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with open(sys.argv[1]) as given:
        jobs: list[Job] = json.load(given)
    print(json.dumps([_run(job) for job in jobs]))
