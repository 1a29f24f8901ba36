"""A run of tiny models on two nodes, one of which is killed in each of its stages and comes back every time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from benchmarks.cluster_shared import WAIT, Figures, check, environment, find_workers, wait_until
from icr.base.rundir import RunDir, Stage
from tests.conftest import TEXTS, write_tiny_config, write_two_sets
from tests.helpers.independent import rows
from tests.helpers.inline import run_inline, silent
from tests.helpers.ray_nodes import Nodes, find
from tests.helpers.tiny_models import make_tiny_pair

NOTICED_SECONDS = 10.0
HANDED_OUT_SECONDS = 1.5
"""After which a worker that was stopped has got a shard."""
LANES: dict[Stage, str] = {"sample": "engine", "score": "scorer", "train": "", "judge": "scorer"}
"""Stage → the lane of the workers that it is killed at; training has agents."""


def kill_nodes(nodes: Nodes, folder: Path) -> Figures:
    """Kill a node in sample, score, train and judge of one run; it ends well, with the results of one machine."""
    settings = {"shard_size": 1, "max_tokens": 24}
    pair, prompts = make_tiny_pair(folder / "models"), write_two_sets(folder / "prompts")
    train = {"processes": 1, "nodes": 2, "micro_batch_size": 1}
    config = write_tiny_config(pair, prompts, folder, rounds=1, sampling=settings, prompts={"limit": 4}, train=train)
    calm, run = folder / "calm", RunDir(folder / "run")
    run_here(config, calm)
    said, noticed = folder / "messages.txt", dict[str, float]()
    command = [sys.executable, "-m", "icr", "iterate", "--config", str(config), "--run", str(run.path)]
    options = ["--cluster", "auto", "--set", "cluster.workers=2"]
    began = time.monotonic()
    with open(said, "wb") as messages:
        process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=messages, env=environment())
        try:
            for stage in LANES:
                noticed[stage] = kill_node(nodes, run, stage, said, process)
                nodes.restore()
            check(process.wait(WAIT) == 0, f"the run did not end well: {said.read_text()}")
        finally:
            process.kill()
            process.wait()
    seconds = time.monotonic() - began
    late = {stage: after for stage, after in noticed.items() if after > NOTICED_SECONDS}
    check(not late, f"noticed late: {late}")
    check("Traceback" not in said.read_text(), said.read_text())
    same = (run, RunDir(calm))
    names = ["pairs.parquet", *(f"{kind}/{lang}.parquet" for kind in ("responses", "rewards") for lang in TEXTS)]
    for name in names:
        check(rows(same[0].round(1).path / name) == rows(same[1].round(1).path / name), f"other results: {name}")
    return {**{f"{stage}_noticed_seconds": after for stage, after in noticed.items()}, "seconds": seconds}


def kill_node(nodes: Nodes, run: RunDir, stage: Stage, said: Path, process: subprocess.Popen[bytes]) -> float:
    """Kill the second node while it works for a stage of round 1; returns after how many seconds that was noticed.

    Workers are stopped where the stage would be over too soon, so that the node's has a shard when it is killed.
    """
    wait_until(lambda: is_begun(run, stage) or process.poll() is not None)
    check(process.poll() is None, f"the run ended: {said.read_text()}")
    if stage == "train":
        wait_until(lambda: any(find_trainers(nodes.second)))
        time.sleep(HANDED_OUT_SECONDS)
    else:
        hold(lambda: is_asked(run, stage) and bool(of_lane(nodes.second, LANES[stage])), LANES[stage])
    before, began = said.stat().st_size, time.monotonic()
    nodes.kill()
    for worker in find_all(LANES[stage]):
        with suppress(psutil.NoSuchProcess):
            worker.send_signal(signal.SIGCONT)
    wait_until(
        lambda: "again, because" in said.read_bytes()[before:].decode(errors="replace") or process.poll() is not None
    )
    check(process.poll() is None, f"the run ended: {said.read_text()}")
    return time.monotonic() - began


def hold(there: Callable[[], bool], lane: str) -> None:
    """Stop the workers of a lane, also those that start meanwhile, until something is there and all have a shard."""
    since: float | None = None
    deadline = time.monotonic() + WAIT
    while since is None or time.monotonic() < since + HANDED_OUT_SECONDS:
        check(time.monotonic() < deadline, f"no worker of the lane {lane} on the second node")
        for worker in find_all(lane):
            with suppress(psutil.NoSuchProcess):
                worker.send_signal(signal.SIGSTOP)
        since = (since or time.monotonic()) if there() else None
        time.sleep(0.02)


def is_begun(run: RunDir, stage: Stage) -> bool:
    """Whether a stage's workers can be stopped. Before answers are judged, a scorer checks the engine's new weights."""
    answers = run.round(1).judge / "answers"
    return any(answers.rglob("*.parquet")) if stage == "judge" else stage in run.round(1).record.stages


def is_asked(run: RunDir, stage: Stage) -> bool:
    """Whether a stage is where its lane works: a judge is asked once there are answers."""
    answers = run.round(1).judge / "answers"
    return stage != "judge" or all((answers / f"{lang}.parquet").exists() for lang in TEXTS)


def find_all(lane: str) -> list[psutil.Process]:
    """Workers of a lane, on all nodes."""
    return [worker for host in find("ray::Host") for worker in of_lane(host.pid, lane)]


def of_lane(above: int, lane: str) -> list[psutil.Process]:
    """Workers of a lane below a process. They are known by their logs."""
    found = []
    for worker in find_workers(psutil.Process(above)) if psutil.pid_exists(above) else []:
        with suppress(OSError):
            if lane and Path(os.readlink(f"/proc/{worker.pid}/fd/1")).name.startswith(f"{lane}-"):
                found.append(worker)
    return found


def find_trainers(above: int) -> list[psutil.Process]:
    below = psutil.Process(above).children(recursive=True)
    return [child for agent in below if agent.name().startswith("ray::Agent") for child in agent.children()]


def run_here(config: Path, run: Path) -> None:
    """The run in this process."""
    from icr.rounds.controller import Controller
    from icr.rounds.preflight import load_checked

    with pytest.MonkeyPatch.context() as patch:
        run_inline(patch)
        resolved, inputs = load_checked(config, ["train.nodes=1"], {"run": str(run)})
        controller = Controller(RunDir(run), resolved, inputs, silent())
        controller.iterate()
        controller.close()
