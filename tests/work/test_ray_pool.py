"""Workers on a Ray cluster of two nodes, both on this machine: what fails is done elsewhere, with the same results."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from icr.base.errors import StageFailed, UserError
from icr.config.schema import Cluster
from icr.work.crew import Limits
from icr.work.local_pool import Lane, LocalPool
from icr.work.pool import Died, Done
from icr.work.published import Published
from icr.work.ray_cluster import connect
from icr.work.ray_pool import RayPool
from tests.conftest import TEXTS, Config
from tests.helpers.command import ICR
from tests.helpers.dummy_worker import Devices, Sleep, make_shards
from tests.helpers.independent import rows
from tests.helpers.inline import run_inline
from tests.helpers.ray_nodes import Nodes, find
from tests.helpers.watching import Run, is_alive
from tests.rounds.test_engines_stay import iterate
from tests.work.conftest import ROOT
from tests.work.test_driver_killed import wait_for

if importlib.util.find_spec("ray") is None:
    pytest.skip("ray is not installed: pip install 'icr-align[ray]'", allow_module_level=True)

QUICK = Limits(silence=6.0, tries=3, witnesses=2)
"""Short, and still longer than a busy machine keeps a healthy worker waiting."""
STARTED, SEEN = 300.0, 120.0
"""Seconds in which hosts have started, and in which what was done to one has been noticed, on a busy machine."""
OpenPool = Callable[..., RayPool]


@pytest.fixture(scope="module")
def open_ray(nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenPool]:
    """Opens a pool of `count` hosts, each with a dummy worker in the lane "engine"."""
    opened: list[RayPool] = []
    folder = tmp_path_factory.mktemp("run")

    def made(count: int) -> RayPool:
        connect(Cluster(address="auto"))
        env = {"PYTHONPATH": f"{ROOT}:{os.environ['PYTHONPATH']}"}  # workers have no current folder on their path
        here = LocalPool(folder, {"single": Lane(1)})
        opened.append(RayPool(folder, {"engine": Lane(1)}, here, count, module="tests.helpers.dummy_worker", env=env))
        return opened[-1]

    yield made
    for pool in opened:
        pool.stop()


@pytest.fixture(scope="module")
def pool(open_ray: OpenPool) -> RayPool:
    return open_ray(2)


def wait_for_hosts(pool: RayPool, count: int) -> None:
    wait_for(lambda: len(pool.workers("engine")) == count, STARTED)


def forgive(pool: RayPool) -> None:
    """As if no worker had ended yet."""
    pool._paused.clear()
    pool._in_vain.clear()


def is_below(pid: int, above: int) -> bool:
    try:
        return above in [process.pid for process in psutil.Process(pid).parents()]
    except psutil.NoSuchProcess:
        return False


def host_pids(pool: RayPool) -> list[int]:
    return [host.facts.pid for host in pool._hosts.ready if host.facts]


def test_what_fails_at_one_host_is_done_at_another_and_logs_come_to_the_run(pool: RayPool, tmp_path: Path) -> None:
    shards = make_shards(12, rows=4, deeds={3: "kill-once", 6: "fail-once", 9: "stop-once"})
    wait_for_hosts(pool, 2)
    run = Run().run(pool, Sleep(folder=str(tmp_path), seconds=0.05), shards, QUICK)
    run.check(shards)
    assert run.tally.retries == 3 and run.tally.restarts == 2
    assert run.shown[-1] == (48, 48, 480)
    reasons = " ".join(run.retold)
    for reason in ("killed by SIGKILL", "ValueError: this row cannot be read", "no sign of life for "):
        assert reason in reasons
    logs = {path.name: path.read_text() for path in (pool._folder / "logs").glob("*.log")}
    assert set(logs) == {"engine-0.log", "engine-1.log"}
    assert "about to be killed" in "".join(logs.values())
    assert f"(log: {pool._folder}/logs/engine-" in reasons


def test_an_engine_that_starts_nowhere_ends_the_work_and_one_that_starts_at_one_host_does_not(
    pool: RayPool, tmp_path: Path
) -> None:
    """Before anything is done, failures of one host are not believed."""
    shards = make_shards(4, deeds={0: "fail-once"})
    Run().run(pool, Sleep(folder=str(tmp_path), seconds=0.1), shards, QUICK).check(shards)
    shards = make_shards(4, deeds=dict.fromkeys(range(4), "fail"))
    with pytest.raises(StageFailed, match="a worker failed: ValueError: this row cannot be read"):
        Run().run(pool, Sleep(folder=str(tmp_path)), shards, QUICK)


def test_a_row_that_kills_every_worker_is_named_after_all_others_are_done(
    pool: RayPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("icr.work.ray_pool.PAUSE_SECONDS", 0.1)
    run, shards = Run(), make_shards(4, rows=2, deeds={2: "kill"})
    with pytest.raises(StageFailed, match="these rows fail every time; all others are done:") as failed:
        run.run(pool, Sleep(folder=str(tmp_path), seconds=0.05), shards)
    run.check([shards[0], *shards[2:]])
    assert "shard 00001, row 1: group=g2" in str(failed.value) and "about to be killed" in str(failed.value)


def test_a_place_whose_workers_end_in_vain_stays_empty_for_a_while(
    pool: RayPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("icr.work.ray_pool.PAUSE_SECONDS", 600.0)
    forgive(pool)
    for _ in range(2):
        first = pool.workers("engine")[0]
        pool.submit(first, 0, Sleep(folder=str(tmp_path)), make_shards(1, deeds={0: "kill"})[0].table)
        wait_for(lambda first=first: any(isinstance(e, Died) and e.worker == first for e in pool.collect(0.1)), SEEN)
    assert [worker.index for worker in pool.workers("engine")] == [1]
    forgive(pool)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
def test_a_host_that_is_killed_or_stands_still_is_replaced(
    sent: signal.Signals, pool: RayPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("icr.work.ray_hosts.SILENCE_SECONDS", 8.0)
    wait_for_hosts(pool, 2)
    victim, shards = host_pids(pool)[0], make_shards(6, rows=4)
    below, struck = list[psutil.Process](), list[float]()

    def strike() -> None:
        """Once it has a shard."""
        wait_for(lambda: any(is_below(int(mark.name.split("-")[2]), victim) for mark in tmp_path.glob("began-*")), SEEN)
        below.extend(psutil.Process(victim).children(recursive=True))
        struck.append(time.monotonic())
        os.kill(victim, sent)

    threading.Thread(target=strike, daemon=True).start()
    run = Run().run(pool, Sleep(folder=str(tmp_path), seconds=0.2, counted=True), shards)
    run.check(shards)
    # a worker without a sign of life would be given up after two minutes
    assert time.monotonic() - struck[0] < 60 and run.tally.retries == 1
    assert ("has not answered for " if sent == signal.SIGSTOP else "its host ended") in run.retold[0]
    wait_for_hosts(pool, 2)  # Ray has started it again
    assert victim not in host_pids(pool) and not is_alive(victim) and below and not psutil.wait_procs(below, SEEN)[1]


def test_a_second_command_and_other_packages_are_refused(
    open_ray: OpenPool, pool: RayPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("icr.work.ray_hosts.NAME_SECONDS", 0.5)
    with pytest.raises(UserError, match="another command is using this run folder on the cluster"):
        open_ray(1).workers("engine")
    pool.stop()
    monkeypatch.setattr("icr.work.ray_hosts.find_versions", lambda: {"torch": "1.0", "icr": "0.1.0"})
    other = open_ray(1)
    with pytest.raises(UserError, match=r"node \S+ has other packages than this machine: torch \S+ \(here: 1.0\)"):
        wait_for_hosts(other, 1)
    other.stop()  # the next test needs the CPU of either node


def ask_for_devices(pool: RayPool, model: str = "") -> list[tuple[str, str]]:
    """Which GPUs each engine of a pool sees, and where it has its model; both must be there."""
    table = make_shards(1)[0].table
    for ticket, worker in enumerate(pool.workers("engine")):
        pool.submit(worker, ticket, Devices(model=model), table)
    seen: list[dict[str, str]] = []

    def answered() -> bool:
        seen.extend(e.table.to_pylist()[0] for e in pool.collect(0.1) if isinstance(e, Done))
        return len(seen) == 2

    wait_for(answered, SEEN)
    return sorted((row["devices"], row["model"]) for row in seen)


def test_an_engine_of_several_gpus_has_them_reserved_on_one_node_and_models_are_copied_there(
    nodes: Nodes, tiny_pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's books say that a node has four; there is none."""
    from ray.util import placement_group_table

    def groups(state: str) -> list[Any]:
        return [group for group in placement_group_table().values() if group["state"] == state]

    before = len(groups("REMOVED"))
    with nodes.another(num_cpus=2, num_gpus=4):
        wait_for(lambda: connect(Cluster(address="auto")).most == 4, SEEN)
        env = {"PYTHONPATH": f"{ROOT}:{os.environ['PYTHONPATH']}"}
        here = LocalPool(tmp_path, {"single": Lane(1)})
        lanes = {"engine": Lane(1, 2), "scorer": Lane(2, 1)}
        monkeypatch.setenv("ICR_CACHE", str(tmp_path / "cache"))
        models = Published((tmp_path / "bucket").as_uri(), print)
        pool = RayPool(tmp_path, lanes, here, 2, 2, module="tests.helpers.dummy_worker", env=env, models=models)
        try:
            wait_for_hosts(pool, 2)
            assert [(g["strategy"], list(g["bundles"].values())) for g in groups("CREATED")] == [
                ("STRICT_PACK", [{"CPU": 1.0, "GPU": 2.0}])
            ] * 2
            assert len({node for g in groups("CREATED") for node in g["bundles_to_node_id"].values()}) == 1
            (first, model), (second, same) = ask_for_devices(pool, str(tiny_pair[0]))
            assert (first, second) == ("0,1", "2,3") and model == same
            assert Path(model).is_relative_to(tmp_path / "cache")
            assert (Path(model) / "model.safetensors").read_bytes() == (tiny_pair[0] / "model.safetensors").read_bytes()
            assert len(pool.workers("scorer")) == 4
            os.kill(host_pids(pool)[0], signal.SIGKILL)
            wait_for(lambda: len(pool.workers("engine")) < 2, SEEN)
            wait_for_hosts(pool, 2)
            assert [devices for devices, _ in ask_for_devices(pool)] == ["0,1", "2,3"]
        finally:
            pool.stop()
        assert len(groups("REMOVED")) == before + 2 and not groups("CREATED")
    wait_for(lambda: connect(Cluster(address="auto")).most == 0, SEEN)


@contextmanager
def start_run(config: Path, run: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command on both nodes, whose messages go to messages.txt; at the end it is killed, if it still runs."""
    options = ["--config", str(config), "--run", str(run), "--cluster", "auto", "--set", "cluster.workers=2"]
    with open(config.with_name("messages.txt"), "wb") as messages:
        process = subprocess.Popen([*ICR, "iterate", *options], stdout=subprocess.DEVNULL, stderr=messages)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def find_hosts() -> list[psutil.Process]:
    return find("ray::Host")


@pytest.mark.timeout(1800)
def test_a_run_whose_driver_and_node_are_killed_is_the_local_run(
    nodes: Nodes, tiny_config: Config, tmp_path: Path
) -> None:
    """The driver in its first shards; then, as the same command goes on, one of the two nodes, which comes back.
    `python -m benchmarks.cluster nodes` kills one in each of four stages."""
    sampling = {"shard_size": 1, "max_tokens": 24}
    changes: dict[str, Any] = {"prompts": {"limit": 4}, "sampling": sampling, "judge": {"kind": "none"}}
    config = tiny_config(tmp_path, rounds=1, train={"processes": 1}, **changes)
    calm, run = tmp_path / "calm", tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        run_inline(patch)
        iterate(config, calm)

    def sampled() -> int:
        return len(list(run.glob("round-1/responses/shards/**/*.parquet")))

    with start_run(config, run):
        wait_for(lambda: sampled() > 0, 240)
        below = [child for host in find_hosts() for child in host.children(recursive=True)]
        assert below
    assert not psutil.wait_procs(below, timeout=10)[1]
    before = sampled()
    assert 0 < before < 12

    with start_run(config, run) as resumed:
        wait_for(lambda: sampled() > before, 240)
        nodes.kill()
        assert sampled() < 12
        nodes.restore()
        resumed.wait()
    told = (tmp_path / "messages.txt").read_text()
    assert resumed.returncode == 0, told
    assert "Traceback" not in told and "raylet" not in told  # nor Ray's own dumps
    for name in ("pairs.parquet", *(f"{kind}/{lang}.parquet" for kind in ("responses", "rewards") for lang in TEXTS)):
        assert rows(calm / "round-1" / name) == rows(run / "round-1" / name) != []
    ours, theirs = (load_file(at / "round-1" / "model" / "model.safetensors") for at in (run, calm))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
