"""A training on two nodes of a Ray cluster: a lost process or node ends all of it, and it goes on by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from icr.base.errors import StageFailed, UserError
from icr.config.schema import Cluster, Train
from icr.work.ray_agent import Agent, Launch
from icr.work.ray_cluster import connect
from icr.work.ray_training import RayTraining
from loops.checkpoints import MARKER
from loops.spec import TrainSpec
from tests.helpers.dummy_training import DummySpec
from tests.helpers.ray_nodes import ROOT, Nodes, find
from tests.helpers.training_runs import finish, fork, largest_difference, make_spec, metrics, random_pairs
from tests.helpers.watching import Run, is_alive
from tests.work.test_driver_killed import wait_for

pytestmark = pytest.mark.timeout(600)
SETTINGS: dict[str, Any] = {"micro_batch_size": 1, "epochs": 12, "save_steps": 3, "nodes": 2}
STEPS = 21


@pytest.fixture(scope="module", autouse=True)
def connected(nodes: Nodes) -> None:
    connect(Cluster(address="auto"))


@pytest.fixture(scope="module")
def undisturbed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainSpec:
    """Two processes of one machine."""
    spec = make_spec(tmp_path_factory.mktemp("undisturbed") / "a", base, random_pairs(7), **SETTINGS)
    finish(fork(spec, 2), spec)
    return spec


def open_training(run: Path, spec: TrainSpec) -> RayTraining:
    env = {"PYTHONPATH": f"{ROOT}:{os.environ['PYTHONPATH']}", "HF_HUB_OFFLINE": "1"}
    return RayTraining(run, spec, "round-1-train", 1, gpus=False, env=env)


def find_agents() -> list[psutil.Process]:
    return find("ray::Agent")


def find_trainers() -> list[psutil.Process]:
    """torchrun and ranks, of this cluster alone: the nodes of no other test train."""
    return [process for agent in find_agents() for process in agent.children(recursive=True)]


def last_step(spec: TrainSpec) -> int:
    file = spec.work / "metrics.jsonl"
    return int(metrics(spec)[-1]["step"]) if file.exists() and metrics(spec) else 0


class Troublemaker(threading.Thread):
    """Kills an agent once there is a checkpoint, and the second node once the training has gone on from there."""

    def __init__(self, nodes: Nodes, spec: TrainSpec) -> None:
        super().__init__(daemon=True)
        self.nodes, self.spec = nodes, spec
        self.trainers: list[psutil.Process] = []
        """Of the agents that were killed, or ended because of that."""
        self.at_first = 0
        self.known: list[dict[str, Any]] = []
        """The training's figures when the node was killed."""

    def run(self) -> None:
        wait_for(lambda: bool(list((self.spec.work / "checkpoints").glob(f"*/{MARKER}"))), 240)
        self.trainers = find_trainers()
        os.kill(find_agents()[-1].pid, signal.SIGKILL)
        wait_for(lambda: not any(is_alive(process.pid) for process in self.trainers), 60)
        self.at_first = last_step(self.spec)  # now that no more steps come of the first start
        wait_for(lambda: last_step(self.spec) > self.at_first, 240)
        for process in find_trainers():
            process.suspend()  # it would soon be over
        self.known = metrics(self.spec)
        self.nodes.kill()


def test_a_training_that_loses_an_agent_goes_on_and_one_that_loses_a_node_starts_over_on_the_other(
    nodes: Nodes, undisturbed: TrainSpec, base: Path, tmp_path: Path
) -> None:
    spec = make_spec(tmp_path / "a", base, random_pairs(7), **SETTINGS)
    trouble, watched = Troublemaker(nodes, spec), Run()
    trouble.start()
    try:
        counts = open_training(tmp_path, spec).run(watched)
        trouble.join(10)
    finally:
        nodes.restore()
    assert len(trouble.trainers) >= 4 and not any(is_alive(process.pid) for process in trouble.trainers)
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {"round-1-train.log", "round-1-train-node1.log"}
    went_on = len(trouble.known)
    assert STEPS > went_on > trouble.at_first >= 3
    assert trouble.known == metrics(undisturbed)[:went_on]  # bit for bit, also after the checkpoint
    assert counts["processes"] == 1 and counts["steps"] == STEPS
    assert counts["restarted"]["why"] == "it was started with 2 process(es) and now has 1"  # type: ignore[index]
    assert len([note for note in watched.notes if "the training is started again, because" in note]) == 2
    told = " ".join(watched.notes)
    for words in ("runs on 1 of 2 nodes; the cluster has no more", "the training starts over"):
        assert words in told
    assert [row["step"] for row in metrics(spec)] == list(range(1, STEPS + 1))
    assert largest_difference(spec.output, undisturbed.output) < 1e-5  # sums in another order


def describe_dummy(folder: Path) -> DummySpec:
    return DummySpec(
        model="m",
        data=folder / "data",
        output=folder / "model",
        work=folder / "work",
        events=folder / "events",
        objective="user",
        train=Train(precision="fp32", nodes=1),
    )


class LateAgent(Agent):
    """Ray gives it its calls in another order: an asynchronous actor has no other right."""

    async def start(self, launch: Launch) -> None:
        await asyncio.sleep(1.0)
        await super().start(launch)


class BrokenAgent(Agent):
    async def start(self, launch: Launch) -> None:
        raise OSError("no space for the specification")


def test_a_training_is_not_asked_before_it_has_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icr.work.ray_training.RELAUNCHES", 0)
    monkeypatch.setattr("icr.work.ray_training.Agent", LateAgent)
    with pytest.raises(UserError, match="no such scheduler: nonsense"):
        open_training(tmp_path, describe_dummy(tmp_path)).run(Run())
    monkeypatch.setattr("icr.work.ray_training.Agent", BrokenAgent)
    with pytest.raises(StageFailed, match="torchrun could not be started: no space for the specification"):
        open_training(tmp_path, describe_dummy(tmp_path)).run(Run())


def test_what_the_user_has_to_fix_is_not_tried_again_and_other_failures_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, spec = Run(), describe_dummy(tmp_path)
    with pytest.raises(UserError, match="no such scheduler: nonsense"):
        open_training(tmp_path, spec).run(watched)
    assert not watched.notes
    monkeypatch.setattr("icr.work.ray_training.RELAUNCHES", 0)
    bad = spec.model_copy(update={"objective": "ours"})
    with pytest.raises(StageFailed, match=r"the training failed .*these data cannot be read(?s:.*)round-1-train.log"):
        open_training(tmp_path, bad).run(watched)
    assert not find_trainers()
