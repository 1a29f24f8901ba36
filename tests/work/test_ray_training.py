"""A training on two nodes of a Ray cluster: a lost process or node ends all of it, and it goes on by itself."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from icr.base.errors import StageFailed, UserError
from icr.config.schema import Cluster
from icr.work.ray_cluster import connect
from icr.work.ray_training import RayTraining
from loops.checkpoints import MARKER
from loops.spec import TrainSpec
from tests.helpers.ray_nodes import ROOT, Nodes
from tests.helpers.training_runs import finish, largest_difference, make_spec, metrics, random_pairs, start
from tests.helpers.watching import Run, is_alive

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
    finish(start(spec, 2), spec)
    return spec


def open_training(run: Path, spec: TrainSpec) -> RayTraining:
    env = {"PYTHONPATH": f"{ROOT}:{os.environ['PYTHONPATH']}", "HF_HUB_OFFLINE": "1"}
    return RayTraining(run, spec, "round-1-train", 1, gpus=False, env=env)


def after_checkpoint(spec: TrainSpec, act: Callable[[], None]) -> threading.Thread:
    """Do something once there is a checkpoint."""

    def wait() -> None:
        deadline = time.monotonic() + 240
        while not list((spec.work / "checkpoints").glob(f"*/{MARKER}")) and time.monotonic() < deadline:
            time.sleep(0.01)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def find_agents() -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if process.name().startswith("ray::Agent")]


def find_trainers() -> list[psutil.Process]:
    """torchrun and ranks, of this cluster alone: the nodes of no other test train."""
    return [process for agent in find_agents() for process in agent.children(recursive=True)]


def test_an_agent_that_is_killed_ends_the_others_and_all_go_on_to_the_same_weights(
    undisturbed: TrainSpec, base: Path, tmp_path: Path
) -> None:
    spec = make_spec(tmp_path / "a", base, random_pairs(7), **SETTINGS)
    trainers: list[psutil.Process] = []

    def kill() -> None:
        trainers.extend(find_trainers())
        os.kill(find_agents()[-1].pid, signal.SIGKILL)

    killer, watched = after_checkpoint(spec, kill), Run()
    counts = open_training(tmp_path, spec).run(watched)
    killer.join(10)
    assert counts["processes"] == 2 and counts["steps"] == STEPS and "restarted" not in counts
    assert len([note for note in watched.notes if "the training is started again, because" in note]) == 1
    assert len(trainers) >= 4 and not any(is_alive(process.pid) for process in trainers)
    assert [row["step"] for row in metrics(spec)] == list(range(1, STEPS + 1))
    assert metrics(spec) == metrics(undisturbed)
    assert largest_difference(spec.output, undisturbed.output) == 0
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {"round-1-train.log", "round-1-train-node1.log"}


def test_a_training_that_loses_a_node_starts_over_on_the_other_and_says_so(
    nodes: Nodes, undisturbed: TrainSpec, base: Path, tmp_path: Path
) -> None:
    spec = make_spec(tmp_path / "a", base, random_pairs(7), **SETTINGS)
    killer, watched = after_checkpoint(spec, nodes.kill), Run()
    try:
        counts = open_training(tmp_path, spec).run(watched)
        killer.join(10)
    finally:
        nodes.restore()
    assert counts["processes"] == 1
    assert counts["restarted"]["why"] == "it was started with 2 process(es) and now has 1"  # type: ignore[index]
    told = " ".join(watched.notes)
    for words in ("started again", "runs on 1 of 2 nodes; the cluster has no more", "the training starts over"):
        assert words in told
    assert largest_difference(spec.output, undisturbed.output) < 1e-5  # sums in another order


def test_what_the_user_has_to_fix_is_not_tried_again_and_other_failures_end(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Run()
    spec = make_spec(tmp_path / "a", base, random_pairs(7), **{**SETTINGS, "nodes": 1})
    bad = spec.model_copy(update={"train": spec.train.model_copy(update={"scheduler": "nonsense"})})
    with pytest.raises(UserError, match="nonsense"):
        open_training(tmp_path, bad).run(watched)
    assert not watched.notes
    monkeypatch.setattr("icr.work.ray_training.RELAUNCHES", 0)
    spec.data.write_bytes(b"nothing")
    with pytest.raises(StageFailed, match=r"the training failed .*Parquet(?s:.*)round-1-train.log"):
        open_training(tmp_path, spec).run(watched)
    assert not find_trainers()
