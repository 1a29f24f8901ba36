"""A run killed at random moments ends with the bytes that it would have had in peace."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import TEXTS, Config
from tests.helpers.forked import ONE_THREAD, Job, Start, kill_forks
from tests.helpers.independent import rows
from tests.helpers.killing import run_with_kills

SETTINGS: dict[str, Any] = {"rounds": 2, "train": {"save_steps": 1, "processes": 1}}


@pytest.fixture(scope="module")
def killed(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Start]]:
    """The folder of a run in peace and of those whose driver was killed, and how each start ended."""
    folder = tmp_path_factory.mktemp("resume")
    command = ["iterate", "--config", str(tiny_config(folder, **SETTINGS))]
    job = Job(command=command, calm=str(folder / "calm"), killed=str(folder / "killed"), kills=20, training=4,
              longest=1.2, inline=True, again=True)  # fmt: skip
    (starts,) = kill_forks(folder, [job], timeout=1000)
    return folder, starts


@pytest.mark.timeout(1200)
def test_twenty_kills_change_nothing(killed: tuple[Path, list[Start]]) -> None:
    """The moments are those of work, as a fork has imported everything."""
    folder, starts = killed
    ended = [start["ended"] for start in starts]
    runs = list(folder.glob("killed*/"))
    assert set(ended) == {-9, 0} and ended[-1] == 0 and ended.count(-9) == 20 and ended.count(0) == len(runs)
    assert any(start["inside"] for start in starts[:-1])
    for run in runs:
        assert_same(folder / "calm", run)


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Processes that are started here compute as the forks do: sums in another order differ in their last bits."""
    for name, value in ONE_THREAD.items():
        monkeypatch.setenv(name, value)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    yield
    os.sched_setaffinity(0, cores)


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("one_thread")
def test_kills_of_the_driver_and_its_workers_change_nothing(
    killed: tuple[Path, list[Start]], tiny_config: Config, tmp_path: Path
) -> None:
    """In processes of their own, which import for much of the time until a kill."""
    for run in run_with_kills(tiny_config(tmp_path, **SETTINGS), tmp_path / "runs", kills=3, seed=7, longest=16):
        assert_same(killed[0] / "calm", run)


def assert_same(calm: Path, killed: Path) -> None:
    """Both runs hold the same responses, rewards, pairs, weights and verdicts, and nothing half-done is left."""
    for number in (1, 2):
        a, b = calm / f"round-{number}", killed / f"round-{number}"
        for name in (
            "pairs.parquet",
            *(f"responses/{lang}.parquet" for lang in TEXTS),
            *(f"rewards/{lang}.parquet" for lang in TEXTS),
        ):
            assert rows(a / name) == rows(b / name), name
        trained, resumed = (load_file(f / "model" / "model.safetensors") for f in (a, b))
        assert trained.keys() == resumed.keys()
        assert all(torch.equal(trained[k], resumed[k]) for k in trained)
        steps = [json.loads(line)["step"] for line in (b / "train" / "metrics.jsonl").read_text().splitlines()]
        assert steps == list(range(1, len(steps) + 1))
        assert json.loads((a / "judge/summary.json").read_text()) == json.loads((b / "judge/summary.json").read_text())
    left = [p for p in killed.rglob("*") if "shards" in p.parts or p.suffix == ".tmp" or "checkpoints" in p.parts]
    assert not left
