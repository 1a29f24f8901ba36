"""What a cluster is asked and told; no Ray is needed."""

from __future__ import annotations

import io
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from icr.base.errors import UserError
from icr.config.schema import Cluster, Train
from icr.work import machine as machines
from icr.work.crew import Limits
from icr.work.display import Ended
from icr.work.local_pool import LocalPool
from icr.work.machine import Machine
from icr.work.pool import Alive, Done, Event, Note, Progress, WorkerId
from icr.work.ray_agent import Launch, begin_command, meet
from icr.work.ray_cluster import Nodes, connect, describe_difference
from icr.work.ray_host import condense
from icr.work.ray_training import fit_nodes, trains_on_cluster
from icr.work.shares import Share
from icr.work.torchrun import start_command
from loops.spec import TrainSpec
from tests.helpers.inline import silent

AUTO = Cluster(address="auto")


def test_a_cluster_without_ray_is_a_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="ray is not installed") as error:
        connect(AUTO)
    assert error.value.do == "pip install 'icr-align[ray]'" and error.value.where == "cluster.address: auto"


@pytest.mark.parametrize(("address", "what"), [("127.0.0.1:1", "no Ray cluster answers"), ("ray://n1:1", "Ray Client")])
def test_an_address_that_is_not_a_clusters_is_refused_at_once(address: str, what: str) -> None:
    with pytest.raises(UserError, match=what) as error:
        connect(Cluster(address=address))
    assert error.value.where == f"cluster.address: {address}"


def test_one_machine_keeps_the_local_pool_and_its_limits(tmp_path: Path) -> None:
    machine = Machine(tmp_path, silent())
    assert isinstance(machine.pool, LocalPool) and machine.nodes is None
    assert machine._limits(None) is None
    first = machine.pool
    machine.stop()
    assert machine.pool is not first and machine._started  # so that what starts later also ends


@pytest.mark.parametrize(
    ("gpus", "parallel", "hosts"),
    [((0, 0, 0), 1, 3), ((8, 8), 1, 16), ((8, 4), 4, 3), ((8, 4, 0), 8, 1), ((2, 2), 4, 0)],
)
def test_a_host_has_the_gpus_of_one_engine_of_one_node(gpus: tuple[int, ...], parallel: int, hosts: int) -> None:
    nodes = Nodes(gpus)
    assert nodes.count_hosts(parallel if nodes.most else 0) == hosts


def test_the_pool_of_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[object, ...]] = []
    monkeypatch.setattr(machines, "RayPool", lambda *arguments, **more: made.append(arguments))
    monkeypatch.setattr(machines, "connect", lambda cluster: Nodes((8, 4)))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    said = Console(file=io.StringIO(), width=200)
    _ = Machine(tmp_path, said, tensor_parallel=4, cluster=AUTO.model_copy(update={"workers": 5})).pool
    _, lanes, _, count, gpus_each = made[0]
    assert (count, gpus_each) == (5, 4)
    assert {name: (lane.count, lane.gpus_each, lane.depth) for name, lane in lanes.items()} == {  # type: ignore[attr-defined]
        "engine": (1, 4, 2),
        "scorer": (4, 1, 1),
        "nlp": (1, 4, 1),
    }
    assert "the cluster has room for 3 of 5 workers now" in said.file.getvalue()  # type: ignore[attr-defined]
    machine = Machine(tmp_path, silent(), cluster=AUTO)
    assert machine.gpus == 8 and machine._limits(Limits(floor=7.0)) == Limits(floor=7.0, tries=3, witnesses=2)


def test_a_driver_that_cannot_train_on_what_the_cluster_has_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines, "connect", lambda cluster: Nodes((0, 8)))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(UserError, match="the cluster has GPUs, but this machine, which trains, has none"):
        Machine(tmp_path, silent(), cluster=AUTO).processes(Train())
    machine = Machine(tmp_path, silent(), cluster=AUTO)
    assert machine.processes(Train(nodes=2)) == 8  # which the cluster trains on


def test_a_machine_with_a_share_has_its_nodes_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for trainings on one node, which need no GPU of this machine then."""
    pools, trained = [], []
    monkeypatch.setattr(machines, "RayPool", lambda *given, **more: pools.append((given[3:5], more["share"])))
    monkeypatch.setattr(machines, "connect", lambda cluster: Nodes([8, 8, 8], [16, 16, 16]))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)

    class Training:
        def __init__(self, run: Path, spec: TrainSpec, name: str, processes: int, **more: object) -> None:
            trained.append((processes, more["share"]))

        def run(self, watcher: object) -> dict[str, object]:
            return {}

    monkeypatch.setattr(machines, "RayTraining", Training)
    machine, share, ended = Machine(tmp_path, silent(), cluster=AUTO), Share(None, Nodes([8], [16])), threading.Event()
    _ = machine.pool
    machine._started = False  # its workers have ended
    machine.confine(share, ended)
    _ = machine.pool
    assert pools == [((24, 1), None), ((8, 1), share)]
    machine._started = False
    at = tmp_path / "round-1"
    spec = TrainSpec(model="m", data=at, output=at, work=at / "train", events=at, train=Train(precision="fp32"))
    machine.train(spec, "train")
    assert trained == [(8, share)] and machine.training_gpus(spec.train) == 8
    assert Machine(tmp_path, silent(), cluster=AUTO).training_gpus(spec.train) == 0
    ended.set()
    with pytest.raises(Ended), machine._display("train") as display:
        display.progress(0, 0)


def test_other_packages_are_named() -> None:
    here = {"torch": "2.13.0", "vllm": "0.32.0"}
    assert describe_difference(here, here, "n1") is None
    problem = describe_difference({"torch": "2.12.0"}, here, "n1")
    assert problem and problem.what == (
        "node n1 has other packages than this machine: torch 2.12.0 (here: 2.13.0), vllm missing (here: 0.32.0)"
    )


def test_news_of_no_weight_are_condensed_and_results_keep_their_order() -> None:
    one, two, table = WorkerId("engine", 0), WorkerId("engine", 1), pa.table({"a": [1]})
    first, last = Progress(one, 1, 1, 4, 5), Progress(one, 1, 2, 4, 9)
    other, done, note = Progress(one, 2, 1, 4, 5), Done(one, 1, table), Note(two, "hello")
    events: list[Event] = [Alive(one), first, Alive(two), note, last, Alive(one), other, done, note]
    assert condense(events) == [Alive(two), note, last, Alive(one), other, done, note]


@pytest.mark.parametrize(
    ("there", "asked", "batch", "micro", "processes", "nodes"),
    [(4, 2, 16, "auto", 8, 2), (1, 2, 16, "auto", 8, 1), (3, 4, 16, 1, 4, 2), (3, 4, 16, 2, 8, 1), (3, 4, 4, 4, 8, 3)],
)
def test_a_training_takes_as_many_nodes_as_a_batch_can_be_split_on(
    there: int, asked: int, batch: int, micro: int | str, processes: int, nodes: int
) -> None:
    train = Train.model_validate({"nodes": asked, "batch_size": batch, "micro_batch_size": micro})
    assert fit_nodes(there, train, processes) == nodes


def test_a_launcher_goes_before_the_cluster_and_one_node_trains_where_the_command_is() -> None:
    assert trains_on_cluster(AUTO, Train(nodes=2))
    for cluster, train in ((AUTO, Train(nodes=2, launcher="srun")), (AUTO, Train()), (Cluster(), Train(nodes=2))):
        assert not trains_on_cluster(cluster, train)
    assert trains_on_cluster(AUTO, Train(), Share(None, Nodes([8], [16])))


@pytest.mark.parametrize("launcher", ["", "true"])
def test_a_training_on_several_nodes_goes_to_the_cluster_after_engines_rest(
    launcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[object] = []

    class Training:
        def __init__(
            self, run: Path, spec: TrainSpec, name: str, processes: int, *, gpus: bool, env: object, share: None
        ) -> None:
            done.append((run, spec.train.nodes, name, processes, gpus, env))

        def run(self, watcher: object) -> dict[str, object]:
            return {"steps": 3}

    class Resting:
        def rest(self, lane: str) -> None:
            done.append(lane)

    monkeypatch.setattr(machines, "connect", lambda cluster: Nodes((8, 8)))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr(machines, "RayTraining", Training)
    machine = Machine(tmp_path, silent(), cluster=AUTO)
    monkeypatch.setattr(Machine, "pool", Resting())
    machine._started = True
    train = Train(nodes=2, launcher=launcher, precision="fp32", processes=4 if launcher else "auto")
    at = tmp_path / "round-1"
    spec = TrainSpec(model="m", data=at, output=at, work=at / "train", events=at, train=train)
    if launcher:  # as without Ray, which here has no GPU
        with pytest.raises(UserError, match="this machine, which trains, has none"):
            machine.train(spec, "train")
        return
    assert machine.train(spec, "train") == {"steps": 3}
    assert done == ["engine", "scorer", (tmp_path, 2, "round-1-train", 8, True, {})]


def test_each_training_has_its_own_number_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One machine does trainings of several sections of a config, such as those of `icr transfer`."""
    machine = Machine(tmp_path, silent())
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert [machine.processes(Train(processes=n)) for n in (2, 3, "auto")] == [2, 3, 1]


def test_ranks_are_numbered_by_node() -> None:
    launch = Launch("loops.train", "{}", 1, 2, 8, "10.0.0.1", 4711, {}, "/")
    assert meet(launch) == ["--nnodes=2", "--node-rank=1", "--master-addr=10.0.0.1", "--master-port=4711"]
    assert meet(Launch("loops.train", "{}", 0, 1, 8, "10.0.0.1", 4711, {}, "/")) == ["--standalone"]


def test_a_single_process_starts_as_on_one_machine() -> None:
    """So its weights are the same, bit for bit."""
    alone = Launch("loops.train", "{}", 0, 1, 1, "10.0.0.1", 4711, {}, "/")
    assert begin_command(alone) == start_command(Train(), 1) == [sys.executable]
    assert begin_command(replace(alone, processes=8)) == start_command(Train(), 8)
    assert "--node-rank=0" in begin_command(replace(alone, nodes=2))
