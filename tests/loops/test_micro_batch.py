"""`train.micro_batch_size: auto`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from icr.base.files import read_json
from icr.config.schema import Train
from loops.micro_batch import choose_micro_rows, count_weights, row_bytes, settle_micro_batch, state_bytes
from tests.helpers.training_runs import make_spec, metrics, random_pairs, run_here, weights

GIB = 1 << 30


def choose(**changes: Any) -> int:
    usual: dict[str, Any] = {
        "batch_rows": 16, "processes": 2, "rows_per_pair": 1, "memory": 80 * GIB, "states": 40 * GIB, "row": 5 * GIB,
    }  # fmt: skip
    return choose_micro_rows(Train(**changes.pop("train", {})), **{**usual, **changes})


def test_as_many_rows_as_fit_and_divide_what_a_process_has() -> None:
    assert choose() == 4  # (0.8·80 - 40) / 5 = 4.8 GiB; 8 rows a process
    assert choose(row=GIB) == 8  # 24 would fit
    assert choose(batch_rows=12) == 3  # 6 rows a process, of which 4 would fit
    assert choose(batch_rows=14) == 1  # 7 rows a process
    assert choose(states=79 * GIB) == 1  # nothing fits by this estimate; the training may know better
    assert choose(batch_rows=1, processes=2) == 1


def test_one_pair_where_the_memory_is_unknown() -> None:
    assert choose(memory=None) == 1 and choose(memory=None, rows_per_pair=2) == 2
    assert choose(memory=None, rows_per_pair=2, batch_rows=2) == 1
    assert choose(train={"nodes": 2}) == 1


@pytest.mark.parametrize(
    ("train", "states"),
    [
        ({"deepspeed": "none", "precision": "bf16"}, 16.0),
        ({"deepspeed": "none", "optimizer": "adafactor"}, 8.0),
        ({"deepspeed": "zero2", "precision": "bf16"}, 2 + 16 / 4),
        ({"deepspeed": "zero2", "precision": "fp32"}, 4 + 16 / 4),
        ({"deepspeed": "zero3", "precision": "bf16"}, 18 / 4),
        ({"deepspeed": "zero3", "precision": "fp32"}, 16 / 4),
        ({"deepspeed": "zero2", "precision": "bf16", "lora": {}}, 2.0),
    ],
)
def test_bytes_of_weights_gradients_and_moments(train: dict[str, Any], states: float) -> None:
    assert state_bytes(Train(**train), 1000, 4) == 1000 * states


def test_bytes_of_a_row() -> None:
    row: dict[str, Any] = {"layers": 6, "hidden": 64, "tokens": 100, "sequences": 2}
    kept, whole = (Train(precision="bf16", gradient_checkpointing=on) for on in (True, False))
    assert row_bytes(kept, **row) == 2 * 100 * 2 * 64 * (6 + 34)
    assert row_bytes(whole, **row) == 2 * 100 * 2 * 64 * 6 * 34


def test_the_weights_of_a_checkpoint_are_counted(base: Path) -> None:
    from safetensors.torch import load_file

    assert count_weights(base) == sum(weight.numel() for weight in load_file(base / "model.safetensors").values())


def test_a_gpus_memory_decides(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from loops.families import family_of
    from loops.objective import make_objective

    spec = make_spec(tmp_path / "run", base, random_pairs(8), micro_batch_size="auto", batch_size=8)
    family = family_of(make_objective("dpo", beta=0.1, nll_weight=1.0))
    monkeypatch.setattr("loops.micro_batch.gpu_memory", lambda: 80 * GIB)
    assert settle_micro_batch(spec, family, base, 2).train.micro_batch_size == 4
    monkeypatch.setattr("loops.micro_batch.gpu_memory", lambda: 1)
    assert settle_micro_batch(spec, family, base, 2).train.micro_batch_size == 1


def test_kto_trains_without_further_settings_and_records_what_auto_was(base: Path, tmp_path: Path) -> None:
    settings = {"batch_size": 2, "learning_rate": 1e-3}
    auto = make_spec(tmp_path / "auto", base, random_pairs(4), "kto", micro_batch_size="auto", **settings)
    counts = run_here(auto)
    assert counts["micro_batch_size"] == 2 and len(metrics(auto)) == 2
    assert read_json(auto.work / "counts.json") == json.loads(json.dumps(counts))
    one = make_spec(tmp_path / "one", base, random_pairs(4), "kto", micro_batch_size=1, **settings)
    assert run_here(one)["micro_batch_size"] == 1
    for name, weight in weights(auto.output).items():
        assert (weight - weights(one.output)[name]).abs().max() < 1e-5
