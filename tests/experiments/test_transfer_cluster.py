"""`icr transfer` on a cluster: its steps go on side by side, and its tables are those of one step after the other."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from icr.base.errors import ConfigError
from icr.base.files import read_json
from icr.commands.main import app
from icr.config.load import load_section
from icr.config.transfer import TransferConfig
from icr.experiments import transfer_plan
from icr.experiments.transfer import check_transfer, list_transfer, run_transfer
from icr.experiments.transfer_cluster import SHARES, find_room
from icr.report.transfer_align import describe_work
from icr.report.transfer_status import transfer_status
from tests.conftest import write_prompts
from tests.helpers.inline import run_inline, share_inline, silent
from tests.helpers.reward_models import make_encoder, make_folder, pair_rows

pytestmark = pytest.mark.timeout(900)
SOON = 120.0
TRAIN = {
    "learning_rate": 3e-3, "batch_size": 8, "micro_batch_size": 8, "epochs": 1, "precision": "fp32",
    "deepspeed": "none", "gradient_checkpointing": False,
}  # fmt: skip
GONE = "127.0.0.1:1"
"""Where no cluster is."""


def make_content(folder: Path, policy: Path) -> dict[str, Any]:
    """Of an experiment: two sources, one target, a tiny encoder, a tiny policy."""
    return {
        "base": str(make_encoder(folder / "encoder")),
        "languages": {"sources": ["en", "es"], "targets": ["es"]},
        "data": {
            "preferences": str(make_folder(folder / "pairs", pair_rows(24))),
            "prompts": str(write_prompts(folder / "prompts", range(1, 5))),
        },
        "reward_model": {"train": TRAIN},
        "align": {
            "policy": str(policy),
            "best_of_n": {"n": 2, "backend": "transformers", "precision": "fp32", "max_tokens": 8, "shard_size": 2},
        },
    }


@pytest.fixture(scope="module")
def made(tiny_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_content(tmp_path_factory.mktemp("made"), tiny_pair[0])


def write(folder: Path, made: dict[str, Any], run: str = "run", **changes: Any) -> Path:
    file = folder / "x.yaml"
    file.write_text(yaml.safe_dump({"run": str(folder / run), **made, **changes}), encoding="utf-8")
    return file


def load(folder: Path, made: dict[str, Any], run: str = "run", **changes: Any) -> TransferConfig:
    return load_section(TransferConfig, write(folder, made, run, **changes))


def on(address: str = "auto", **more: Any) -> dict[str, Any]:
    return {"cluster": {"address": address, **more}}


def do(config: TransferConfig) -> dict[str, Any]:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    result, failed = run_transfer(config, "*", silent())
    assert not failed
    return result


def check_tables(one: Path, other: Path) -> None:
    """Equal to the byte."""
    tables = sorted(file.name for file in (one / "tables").iterdir())
    assert {"accuracy.csv", "score_increase.csv"} < set(tables)
    assert tables == sorted(file.name for file in (other / "tables").iterdir())
    for name in tables:
        assert (one / "tables" / name).read_bytes() == (other / "tables" / name).read_bytes(), name


def count_overlaps(run: Path) -> int:
    """Pairs of steps that went on at the same time."""
    records = [read_json(file) for file in run.glob("steps/*/step.json")]
    spans = [(record["started"], record["finished"]) for record in records]
    return sum(a < d and c < b for at, (a, b) in enumerate(spans) for c, d in spans[:at])


@pytest.fixture
def serial(made: dict[str, Any], tmp_path: Path) -> Iterator[Path]:
    """One step after the other."""
    with pytest.MonkeyPatch.context() as patch:
        run_inline(patch)
        do(load(tmp_path, made, "serial"))
    assert count_overlaps(tmp_path / "serial") == 0
    yield tmp_path / "serial"


def test_steps_go_on_side_by_side_and_the_tables_are_the_same(
    made: dict[str, Any], serial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    met, train = Barrier(2), transfer_plan.do_reward_model
    folders = set[Path]()

    def meet(run: Path, config: Any, inputs: Any, machine: Any) -> Any:
        """The two reward models are trained at the same time."""
        folders.add(machine.folder)
        met.wait(SOON)
        return train(run, config, inputs, machine)

    monkeypatch.setattr(transfer_plan, "do_reward_model", meet)
    tasks = run_inline(monkeypatch)
    share_inline(monkeypatch, 2)
    config = load(tmp_path, made, **on())
    states, work = list_transfer(config, silent())
    assert set(states.values()) == {"to do", "waits for rm-en", "waits for rm-es", "waits for scores-en-on-es",
                                    "waits for scores-es-on-es"}  # fmt: skip
    assert describe_work(config, work).splitlines()[-1] == "2 nodes of a cluster, up to 2 steps at a time"
    do(config)
    assert folders == {tmp_path / "run" / SHARES / number for number in "12"} and count_overlaps(tmp_path / "run")
    check_tables(serial, tmp_path / "run")
    # operational: what one machine has made, a cluster need not make again
    assert set(list_transfer(load(tmp_path, made, "serial", **on()), silent())[0].values()) == {"done"}
    del tasks[:]
    do(load(tmp_path, made, "serial", **on()))
    assert not tasks
    assert transfer_status(tmp_path / "run", held=False).next is None


def test_steps_take_turns_where_nodes_cannot_be_cut(
    made: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_inline(monkeypatch)
    share_inline(monkeypatch, 3)
    room = find_room(load(tmp_path, made, **on()))
    assert room and [len(part.gpus) for part in room.split(2)] == [2, 1]
    two = {"train": {**TRAIN, "micro_batch_size": 4, "nodes": 2}}
    wide = load(tmp_path, made, reward_model=two, **on())  # one training takes two of the three
    room = find_room(wide)
    assert room and room.split(2) == []
    assert "3 nodes of a cluster, up to 1 step at a time" in describe_work(wide, list_transfer(wide, silent())[1])
    launched = {"train": {**two["train"], "launcher": "srun"}}
    assert find_room(load(tmp_path, made, reward_model=launched, **on())) is None
    assert find_room(load(tmp_path, made, **on(models="s3://bucket"))) is None
    assert find_room(load(tmp_path, made)) is None
    with pytest.raises(ConfigError, match="the command that starts the training on 2 nodes is missing"):
        check_transfer(load(tmp_path, made, reward_model=two))


def test_what_is_wrong_with_the_cluster_is_said_with_all_else(
    made: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = {"languages": {"sources": ["en", "fr"], "targets": ["es"]}}
    with pytest.raises(ConfigError) as caught:
        check_transfer(load(tmp_path, {**made, **wrong}, **on(GONE)))
    said = [problem.where for problem in caught.value.problems]
    assert said == [f"cluster.address: {GONE}", "languages.sources"]
    monkeypatch.setitem(sys.modules, "ray", None)
    done = CliRunner().invoke(app, ["transfer", str(write(tmp_path, made)), "--cluster", "auto", "--dry-run"])
    assert isinstance(done.exception, ConfigError)
    [problem] = done.exception.problems
    assert (problem.what, problem.do) == ("ray is not installed", "pip install 'icr-align[ray]'")


def test_a_status_needs_no_cluster(made: dict[str, Any], serial: Path, tmp_path: Path) -> None:
    file = serial / "experiment.yaml"
    file.write_text(file.read_text().replace("address: null", f"address: {GONE}"), encoding="utf-8")
    assert load_section(TransferConfig, file).cluster.address == GONE
    status = transfer_status(serial, held=False)
    assert status.next is None and status.done == len(status.cells)
