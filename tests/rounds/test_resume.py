"""A run killed at random moments ends with the bytes that it would have had in peace."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import TEXTS
from tests.helpers.independent import rows
from tests.helpers.killing import run_with_kills

KILLS = 20


@pytest.mark.timeout(1800)
def test_twenty_kills_change_nothing(tiny_config: Callable[..., Path], tmp_path: Path) -> None:
    config = tiny_config(tmp_path, rounds=2, train={"save_steps": 1})
    calm = tmp_path / "calm"
    command = [sys.executable, "-m", "icr.commands.main", "iterate", "--config", str(config), "--run", str(calm)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for killed in run_with_kills(config, tmp_path / "killed", KILLS, seed=7, longest=9):
        assert_same(calm, killed)


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
