"""Real trainings on a tiny model: what is trained, that splits do not matter, and what ends them."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from icr.base.errors import UserError
from loops.checks import trackers
from loops.deepspeed_json import read_deepspeed
from tests.helpers.tiny_models import make_tiny_model
from tests.helpers.training_runs import (
    events,
    exact_logp,
    finish,
    fork,
    largest_difference,
    make_spec,
    metrics,
    random_pairs,
    run_here,
    weights,
)


def test_one_step_against_fp64(base: Path, tmp_path: Path) -> None:
    """The reference is the policy itself: Δ = 0, so the first step's loss is log 2 and the mean per-sequence NLL."""
    pairs = random_pairs(4)
    spec = make_spec(tmp_path / "run", base, pairs)
    counts = run_here(spec)
    assert counts.pop("start")["gap"] == pytest.approx(0, abs=1e-4)
    assert counts == {
        "pairs": 4, "rows": 4, "dropped_too_long": 0, "steps": 1, "objective": "dpo", "processes": 1,
        "deepspeed": "none", "precision": "fp32", "micro_batch_size": 2,
    }  # fmt: skip
    [row] = metrics(spec)
    chosen = [exact_logp(base, p["prompt_ids"], p["chosen_ids"]) for p in pairs]
    rejected = [exact_logp(base, p["prompt_ids"], p["rejected_ids"]) for p in pairs]
    nll = np.mean([-logp / len(p["chosen_ids"]) for logp, p in zip(chosen, pairs, strict=True)])
    assert row["logps/chosen"] == pytest.approx(np.mean(chosen), rel=1e-6)
    assert row["logps/rejected"] == pytest.approx(np.mean(rejected), rel=1e-6)
    assert row["loss/nll"] == pytest.approx(nll, rel=1e-6)
    assert row["loss/dpo"] == pytest.approx(math.log(2), rel=1e-5)
    assert row["loss"] == pytest.approx(math.log(2) + nll, rel=1e-6)
    assert row["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert (row["step"], row["epoch"], row["learning_rate"]) == (1, 1.0, 1e-3)
    before, after = weights(base), weights(spec.output)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert not torch.equal(tensor, after[name]), f"{name} was not trained"
    assert not (spec.work / "checkpoints").exists()


def test_a_step_does_not_depend_on_its_split(base: Path, tmp_path: Path) -> None:
    """6 pairs in batches of 4: the second step has 2 pairs, of which the last micro-batch of 4 is half padding."""
    specs = []
    for name, micro in (("whole", 4), ("split", 1)):
        specs.append(make_spec(tmp_path / name, base, random_pairs(6), micro_batch_size=micro))
        run_here(specs[-1])
    whole, split = map(metrics, specs)
    assert [row["step"] for row in whole] == [1, 2] and whole[-1]["epoch"] == 1.0
    for one, other in zip(whole, split, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert other[name] == pytest.approx(one[name], rel=1e-5, abs=1e-5), name
    assert largest_difference(specs[0].output, specs[1].output) < 0.02 * 1e-3


def test_more_steps_of_training_raise_margin_and_likelihood(base: Path, tmp_path: Path) -> None:
    spec = make_spec(tmp_path / "run", base, random_pairs(8), epochs=6, batch_size=8, micro_batch_size=4)
    run_here(spec)
    rows = metrics(spec)
    assert len(rows) == 6
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.05
    assert rows[-1]["rewards/margins"] > 0.1 and rows[-1]["rewards/accuracies"] == 1.0
    assert rows[-1]["learning_rate"] < rows[0]["learning_rate"] == 1e-3  # cosine; 3 % of 6 steps are no warm-up


def test_bf16_without_deepspeed_keeps_small_steps(base: Path, tmp_path: Path) -> None:
    """Weights stay fp32: a step of 5e-7, the paper's rate, would vanish in bf16."""
    spec = make_spec(
        tmp_path / "run", base, random_pairs(4), precision="bf16", learning_rate=5e-7, gradient_checkpointing=True
    )
    run_here(spec)
    before, after = weights(base), weights(spec.output)
    assert all(tensor.dtype == torch.float32 for tensor in after.values())
    moved = torch.cat([(after[k] - before[k]).abs().flatten() for k in before])
    assert 0 < float(moved.max()) < 1e-6
    assert float((moved > 0).float().mean()) > 0.5
    nll = np.mean([-exact_logp(base, p["prompt_ids"], p["chosen_ids"]) / len(p["chosen_ids"]) for p in random_pairs(4)])
    assert metrics(spec)[0]["loss/nll"] == pytest.approx(nll, rel=5e-3)


def test_zero3_gives_what_no_deepspeed_gives(base: Path, tmp_path: Path) -> None:
    plain = make_spec(tmp_path / "plain", base, random_pairs(6), micro_batch_size=1)
    sharded = make_spec(tmp_path / "sharded", base, random_pairs(6), micro_batch_size=1, deepspeed="zero3")
    process = fork(sharded, 2)
    run_here(plain)
    finish(process, sharded)
    for one, other in zip(metrics(plain), metrics(sharded), strict=True):
        for name in one:
            assert other[name] == pytest.approx(one[name], rel=1e-4, abs=1e-5), name
    assert largest_difference(plain.output, sharded.output) < 0.02 * 1e-3


def test_zero2_with_one_process(base: Path, tmp_path: Path) -> None:
    """bf16 weights with an fp32 master: the export comes from the master, so that 5e-7 is not lost in an fp32 base."""
    spec = make_spec(tmp_path / "run", base, random_pairs(4), deepspeed="zero2", precision="bf16", learning_rate=5e-7)
    finish(fork(spec, 1), spec)
    rounded = {name: tensor.bfloat16().float() for name, tensor in weights(base).items()}
    after = weights(spec.output)
    moved = torch.cat([(after[k] - rounded[k]).abs().flatten() for k in rounded])
    assert 0 < float(moved.max()) < 1e-6
    assert float((moved > 0).float().mean()) > 0.5


def test_a_loss_that_is_no_number_ends_the_training(base: Path, tmp_path: Path) -> None:
    broken = weights(base)
    broken["model.norm.weight"][:] = float("inf")
    folder = make_tiny_model(tmp_path / "broken")
    save_file(broken, folder / "model.safetensors", metadata={"format": "pt"})
    spec = make_spec(tmp_path / "run", base, random_pairs(4)).model_copy(update={"model": str(folder)})
    with pytest.raises(UserError, match="the loss became nan at step 1"):
        run_here(spec)
    assert not spec.output.exists()


def test_errors_are_told_as_events(base: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Exit 2 and one event for what the user can fix; no traceback."""
    from loops import train

    spec = make_spec(tmp_path / "run", base, random_pairs(4), scheduler="cosin")
    monkeypatch.setattr(sys, "argv", ["train", str(tmp_path / "run" / "spec.json")])
    monkeypatch.setattr(train, "die_with_parent", lambda: None)
    assert train.main() == 2
    [event] = events(spec)
    assert event["event"] == "error" and event["kind"] == "user"
    assert "unknown scheduler cosin" in event["what"] and event["where"] == "train.scheduler"
    assert "did you mean cosine?" in event["do"]


@pytest.mark.parametrize("name", ["wandbb", "wandb"])
def test_trackers_that_are_not_there(name: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("transformers.integrations.get_available_reporting_integrations", lambda: ["trackio"])
    assert trackers("none") == [] and trackers("trackio") == ["trackio"]
    with pytest.raises(UserError, match=f"tracker {name} is unknown or not installed") as raised:
        trackers(f"trackio, {name}")
    assert "trackio" in raised.value.do


def test_precision_is_decided_before(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the caller decides"):
        make_spec(tmp_path / "run", base, random_pairs(2), precision="auto")


def test_deepspeed_configs(tmp_path: Path) -> None:
    assert read_deepspeed("none") is None
    for name, stage in (("zero2", 2), ("zero3", 3)):
        config = read_deepspeed(name)
        assert config is not None and config["zero_optimization"]["stage"] == stage
    (tmp_path / "own.json").write_text('{"zero_optimization": {"stage": 1}}')
    assert read_deepspeed(str(tmp_path / "own.json")) == {"zero_optimization": {"stage": 1}}
    (tmp_path / "bad.json").write_text("{")
    for name, what in (("zero4", "zero4 not found"), (str(tmp_path / "bad.json"), "not JSON")):
        with pytest.raises(UserError, match=what):
            read_deepspeed(name)
