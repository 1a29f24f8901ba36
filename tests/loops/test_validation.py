"""Rows held back from a training: their loss, and the model that was best on them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from loops.best import Best
from loops.data import hold_back
from tests.helpers.training_runs import (
    exact_logp,
    finish,
    fork,
    make_spec,
    metrics,
    random_pairs,
    run_here,
    validations,
    weights,
)
from tests.loops.test_train_resume import run_until_checkpoint

# a rate at which the training soon does harm to the rows that it does not see
SETTINGS: dict[str, Any] = {"learning_rate": 2e-2, "epochs": 3, "validation": 3, "validation_steps": 1}


def held_pairs(spec: Any, pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    table = pq.read_table(spec.data)
    held = set(table["prompt_id"].to_numpy()[hold_back(table, spec.train.validation, spec.train.seed)])
    return [pair for pair in pairs if pair["prompt_id"] in held]


def test_the_loss_against_fp64_and_the_best_model(base: Path, tmp_path: Path) -> None:
    """Every validation's loss is that of Eq. 11, by hand from log-probs in fp64 of the exported model and the base."""
    pairs = random_pairs(11)
    spec = make_spec(tmp_path / "run", base, pairs, **SETTINGS)
    counts = run_here(spec)
    held = held_pairs(spec, pairs)
    assert len(held) == 3 and (counts["rows"], counts["steps"]) == (8, 6)
    rows = validations(spec)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    best = min(rows, key=lambda row: row["loss"])
    assert best["loss"] < rows[-1]["loss"]  # else the test would not see which model is exported
    assert counts["validation"] == {"rows": 3, "step": best["step"], "loss": best["loss"]}

    def log_ratio(pair: dict[str, Any], side: str) -> float:
        after = exact_logp(spec.output, pair["prompt_ids"], pair[side])
        return after - exact_logp(base, pair["prompt_ids"], pair[side])

    margins = [log_ratio(pair, "chosen_ids") - log_ratio(pair, "rejected_ids") for pair in held]
    nll = [-exact_logp(spec.output, p["prompt_ids"], p["chosen_ids"]) / len(p["chosen_ids"]) for p in held]
    expected = np.mean([n + math.log(1 + math.exp(-0.1 * margin)) for n, margin in zip(nll, margins, strict=True)])
    assert best["loss"] == pytest.approx(expected, rel=1e-5)
    assert best["rewards/margins"] == pytest.approx(0.1 * np.mean(margins), abs=1e-5)
    assert [row["step"] for row in metrics(spec)] == [1, 2, 3, 4, 5, 6]
    assert not any(name.startswith("eval_") for row in metrics(spec) for name in row)
    assert not (spec.work / "best").exists()


def test_validation_does_not_change_the_training(base: Path, tmp_path: Path) -> None:
    """The same steps and, where the last model alone is validated, the same weights as on the other rows alone."""
    settings = {"learning_rate": 1e-3, "epochs": 2, "validation": 3, "validation_steps": 100}
    pairs = random_pairs(11)
    spec = make_spec(tmp_path / "run", base, pairs, **settings)
    counts = run_here(spec)
    kept = [pair for pair in pairs if pair not in held_pairs(spec, pairs)]
    alone = make_spec(tmp_path / "alone", base, kept, **{**settings, "validation": 0})
    run_here(alone)
    assert [row["step"] for row in validations(spec)] == [4] and counts["validation"]["step"] == 4
    assert metrics(spec) == metrics(alone)
    one, other = weights(spec.output), weights(alone.output)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not (alone.work / "validation.jsonl").exists()


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_the_same_on_every_split(base: Path, tmp_path: Path, objective: str) -> None:
    """5 pairs held back do not fill micro-batches of 2 on 2 ranks, and ZeRO-2 exports in the middle of the training."""
    settings = {"learning_rate": 1e-3, "epochs": 2, "validation": 5, "validation_steps": 2}
    whole = make_spec(tmp_path / "whole", base, random_pairs(13), objective, **settings, micro_batch_size=4)
    split = make_spec(tmp_path / "split", base, random_pairs(13), objective, **settings, deepspeed="zero2")
    process = fork(split, 2)
    counts = run_here(whole)
    finish(process, split)
    assert counts["validation"]["rows"] == (10 if objective == "kto" else 5)
    rows = validations(whole)
    assert [row["step"] for row in rows] == [2, 4]
    for one, other in zip(rows, validations(split), strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert other[name] == pytest.approx(one[name], rel=1e-3, abs=1e-3), name
    a, b = weights(whole.output), weights(split.output)
    assert max(float((a[name] - b[name]).abs().max()) for name in a) < 0.1 * 1e-3


def test_a_resumed_training_keeps_the_best_so_far(base: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """The best model comes before the checkpoint; killed after it and resumed, the training exports it all the same."""
    settings = {**SETTINGS, "epochs": 4, "save_steps": 6}
    unbroken = make_spec(tmp_path / "unbroken", base, random_pairs(11), **settings)
    counts = run_here(unbroken)
    assert counts["validation"]["step"] < 6 < counts["steps"]
    broken = make_spec(tmp_path / "broken", base, random_pairs(11), **settings)
    run_until_checkpoint(broken, monkeypatch)
    kept = Best(broken.work / "best").score
    assert kept is not None and kept["step"] == counts["validation"]["step"]
    assert run_here(broken) == counts
    assert validations(broken) == validations(unbroken) and metrics(broken) == metrics(unbroken)
    a, b = weights(unbroken.output), weights(broken.output)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_best(tmp_path: Path) -> None:
    """The lower loss wins, an equal one does not; only the winner's files are kept, whole."""

    def export(folder: Path) -> None:
        folder.mkdir()
        (folder / "weights").write_text(folder.parent.name)

    best = Best(tmp_path / "best")
    assert best.score is None and best.is_beaten_by(9.0)
    best.keep(3, 2.0, export, first=True)
    assert best.is_beaten_by(1.9) and not best.is_beaten_by(2.0)
    best.keep(5, 1.5, export, first=True)
    (tmp_path / "best" / ".step-7.1.tmp").mkdir()
    again = Best(tmp_path / "best")
    again.delete_incomplete()
    assert again.score == {"step": 5, "loss": 1.5}
    assert [path.name for path in again.path.iterdir()] == ["step-5"]
    again.move_to(tmp_path / "model")
    assert (tmp_path / "model" / "weights").exists()
    again.forget(delete=True)
    assert not again.path.exists() and again.score is None
    with pytest.raises(FileNotFoundError):
        again.move_to(tmp_path / "other")
