"""Shares of a cluster: which nodes each run gets, and that its engines and trainings are there and nowhere else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from icr.base.errors import UserError
from icr.config.schema import Cluster, Train
from icr.work.local_pool import Lane, LocalPool
from icr.work.pool import Shard
from icr.work.ray_cluster import Nodes, connect
from icr.work.ray_pool import RayPool
from icr.work.ray_training import RayTraining
from icr.work.shares import Share, reserve, split_nodes
from tests.helpers import ray_nodes
from tests.helpers.dummy_training import DummySpec
from tests.helpers.dummy_worker import Echo
from tests.helpers.ray_nodes import ROOT
from tests.helpers.watching import Run
from tests.work.test_driver_killed import wait_for


@pytest.mark.parametrize(
    ("gpus", "gpus_each", "workers", "runs", "each", "shares"),
    [
        ([8] * 8, 1, None, 4, 1, [[8, 8]] * 4),
        ([8] * 8, 4, None, 3, 1, [[8, 8, 8], [8, 8, 8], [8, 8]]),
        ([8] * 8, 1, None, 4, 4, [[8] * 4] * 2),  # a training takes four nodes
        ([8] * 8, 1, 20, 4, 1, [[8], [8]]),  # 20 engines at most
        ([8, 4, 2], 4, None, 4, 1, [[8], [4]]),  # no engine fits on the third
        ([0, 0, 0], 0, None, 2, 1, [[0, 0], [0]]),
        ([8, 8], 1, None, 1, 1, []),
        ([8, 8], 1, None, 4, 2, []),
        ([8], 1, None, 4, 1, []),
    ],
)
def test_runs_get_whole_nodes_as_equal_as_can_be(
    gpus: list[int], gpus_each: int, workers: int | None, runs: int, each: int, shares: list[list[int]]
) -> None:
    parts = split_nodes(Nodes(gpus, [16] * len(gpus)), gpus_each, workers, runs, each)
    assert [list(part.gpus) for part in parts] == shares


def test_each_engine_of_a_share_has_its_place() -> None:
    assert Share(None, Nodes([8, 4], [1, 1])).list_places(4) == [0, 0, 1]
    assert Share(None, Nodes([0, 0], [1, 1])).list_places(0) == [0, 1]


def open_share(folder: Path, share: Share) -> RayPool:
    env = {"PYTHONPATH": f"{ROOT}:{os.environ['PYTHONPATH']}"}
    here = LocalPool(folder, {"single": Lane(1)})
    return RayPool(folder, {"engine": Lane(1)}, here, 1, module="tests.helpers.dummy_worker", env=env, share=share)


def find_nodes(pool: RayPool) -> set[str]:
    """Of the pool's hosts."""
    from ray._private.state import actors

    known: dict[str, Any] = actors()
    return {known[host.actor._actor_id.hex()]["Address"]["NodeID"] for host in pool._hosts.ready}


@pytest.mark.timeout(300)
def test_each_run_has_its_nodes_for_engines_and_trainings(nodes: ray_nodes.Nodes, tmp_path: Path) -> None:
    parts = split_nodes(connect(Cluster(address="auto")), 0, None, 2, 1)
    pools, table = list[RayPool](), pa.table({"number": [1, 2]})
    with reserve(parts, 0) as shares:
        assert len(shares) == 2 and [share.find_alive() for share in shares] == [[0], [0]]
        try:
            for place, share in enumerate(shares):
                pools.append(open_share(tmp_path / str(place), share))
                run = Run().run(pools[-1], Echo(), [Shard("a", table)])
                assert run.results["a"].equals(table)
            assert find_nodes(pools[0]).isdisjoint(find_nodes(pools[1])) and find_nodes(pools[1])
            train = Train(nodes=1, precision="fp32")
            spec = DummySpec(model="m", data=tmp_path, output=tmp_path, work=tmp_path, events=tmp_path, train=train,
                             objective="user")  # fmt: skip
            env = {"PYTHONPATH": f"{ROOT}:{os.environ['PYTHONPATH']}"}
            training = RayTraining(tmp_path, spec, "round-1-train", 1, gpus=False, env=env, share=shares[1])
            with pytest.raises(UserError, match="no such scheduler"):
                training.run(Run())
        finally:
            for pool in pools:
                pool.stop()


@pytest.mark.timeout(300)
def test_there_are_no_shares_while_a_node_is_taken(
    nodes: ray_nodes.Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("icr.work.shares.PLACE_SECONDS", 2.0)
    parts = split_nodes(connect(Cluster(address="auto")), 0, None, 2, 1)
    with reserve(parts[:1], 0) as taken, reserve(parts, 0) as shares:
        assert len(taken) == 1 and shares == []
    with reserve(parts, 0) as shares:
        assert len(shares) == 2


@pytest.mark.timeout(300)
def test_the_place_of_a_lost_node_moves_to_one_that_is_free(nodes: ray_nodes.Nodes) -> None:
    parts = split_nodes(connect(Cluster(address="auto")), 0, None, 2, 1)
    with reserve(parts, 0) as shares:
        nodes.kill()
        wait_for(lambda: sorted(share.find_alive() for share in shares) == [[], [0]], 60)
        nodes.add()
        wait_for(lambda: [share.find_alive() for share in shares] == [[0], [0]], 60)
