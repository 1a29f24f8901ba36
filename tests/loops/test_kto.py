"""Eq. 16 and 17 against hand calculation, autograd in fp64, TRL, and as a training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import KTOConfig
from trl import KTOTrainer as TRLTrainer
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

from loops.callbacks import read_metrics
from loops.data import write_training_data
from loops.kto import KTO, AnswerLogps, class_weights, kto_loss, neighbours, reference_point
from loops.kto_family import KTOFamily
from loops.kto_trainer import KTOTrainer
from loops.train import Checkpoints, EventFile, build_trainer, plan
from tests.helpers.tiny_models import make_tiny_model
from tests.helpers.training_runs import (
    finish,
    fork,
    largest_difference,
    make_spec,
    metrics,
    random_pairs,
    reference_logps,
    run_here,
)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_hand_calculated() -> None:
    """β = 0.1, z_ref = 0.2, λ_w = 1, λ_l = 2.

    Desirable, r = −8 + 12 = 4: v = σ(0.4 − 0.2), loss 1 − σ(0.2).
    Undesirable, r = −9 + 6 = −3: v = 2·σ(0.2 + 0.3), loss 2 − 2·σ(0.5).
    """
    policy = torch.tensor([-8.0, -9.0], dtype=torch.float64, requires_grad=True)
    batch = AnswerLogps(policy, torch.tensor([-12.0, -6.0], dtype=torch.float64), torch.tensor([True, False]))
    z_ref = torch.tensor(0.2, dtype=torch.float64)
    losses = kto_loss(batch, z_ref, 0.1, 1.0, 2.0)
    assert losses.tolist() == pytest.approx([1 - sigmoid(0.2), 2 - 2 * sigmoid(0.5)], rel=1e-14)
    losses.sum().backward()
    assert policy.grad is not None
    # dσ = σ(1 − σ): the desirable answer is pushed up, the undesirable one down
    slope = [-0.1 * sigmoid(0.2) * sigmoid(-0.2), 2 * 0.1 * sigmoid(0.5) * sigmoid(-0.5)]
    assert policy.grad.tolist() == pytest.approx(slope, rel=1e-14)


def test_reference_point() -> None:
    """β times the mean log-ratio, cut at 0, and not trained through."""
    assert float(reference_point(torch.tensor(3.0, dtype=torch.float64), 0.1)) == pytest.approx(0.3)
    assert float(reference_point(torch.tensor(-3.0), 0.1)) == 0.0
    assert not reference_point(torch.tensor(3.0, requires_grad=True), 0.1).requires_grad


def test_weights_from_counts() -> None:
    assert class_weights(5, 5) == (1.0, 1.0)
    assert class_weights(4, 6) == (1.5, 1.0)
    assert class_weights(6, 4) == (1.0, 1.5)
    assert class_weights(0, 4) == (1.0, 1.0)


def test_rows_and_mismatches() -> None:
    """Every answer is once a row and once a mismatch, never to its own prompt; the requests go with the rows."""
    pairs = random_pairs(9)
    pairs[4]["prompt_ids"] = pairs[2]["prompt_ids"]
    objective = KTO(beta=0.1, nll_weight=1.0)
    requests = objective.reference_requests(pairs, seed=7)
    rows = objective.dataset(pairs, [float(n) for n in range(len(requests))], seed=7)
    assert len(requests) == 36 and len(rows) == 18
    for number, row in enumerate(rows):
        assert row["label"] == (number % 2 == 0)
        assert requests[2 * number] == (row["prompt_ids"], row["completion_ids"])
        assert requests[2 * number + 1] == (row["prompt_ids"], row["KL_completion_ids"])
        assert (row["ref_logps"], row["ref_KL_logps"]) == (2.0 * number, 2.0 * number + 1)
    for pair, other in zip(pairs, neighbours(pairs, 7), strict=True):
        assert pairs[other]["prompt_ids"] != pair["prompt_ids"]
    distinct = random_pairs(9)
    assert sorted(neighbours(distinct, 7)) == list(range(9))
    assert neighbours(distinct, 7) == neighbours(distinct, 7) != neighbours(distinct, 8)
    assert neighbours(distinct[:1], 7) == [0]


class PlainTRL(TRLTrainer):
    """TRL's own loss, on our data."""

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *args: Any) -> Any:
        return dataset


def test_equals_trl_where_a_step_is_one_micro_batch(tmp_path: Path) -> None:
    base, other = make_tiny_model(tmp_path / "base", seed=3), make_tiny_model(tmp_path / "other", seed=4)
    pairs = random_pairs(4, seed=5)
    objective = KTO(beta=0.1, nll_weight=1.0)
    rows = objective.dataset(pairs, reference_logps(other, objective.reference_requests(pairs)))
    # lower the reference's mismatched log-probs, so that the KL estimate is above 0
    rows = [{**row, "ref_KL_logps": row["ref_KL_logps"] - 40} for row in rows]
    spec = make_spec(tmp_path / "run", base, pairs, "kto", micro_batch_size=8)
    family = KTOFamily(objective)
    schedule = plan(spec, family, base, 1)
    ours = build_trainer(spec, family, base, schedule, Checkpoints(tmp_path, 1), EventFile(spec.events))
    assert isinstance(ours, KTOTrainer)
    tokenizer = AutoTokenizer.from_pretrained(base)
    theirs = PlainTRL(
        model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        args=KTOConfig(
            output_dir=str(tmp_path / "trl"),
            beta=0.1,
            max_length=None,
            precompute_ref_log_probs=True,
            train_sampling_strategy="sequential",
            per_device_train_batch_size=8,
            bf16=False,
            use_cpu=True,
            report_to="none",
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    plain = DataCollatorForUnpairedPreference(pad_token_id=tokenizer.pad_token_id)(rows)
    expected = float(theirs.compute_loss(theirs.model, plain).detach())
    inputs = family.collate([{**row, "weight": 1.0} for row in rows])
    [batch], _ = ours.get_batch_samples(iter([inputs]), 1, torch.device("cpu"))
    assert float(ours.compute_loss(ours.model, batch).detach()) == pytest.approx(expected, rel=1e-5)
    assert float(ours._z_ref) > 0.1


def test_trains_alike_on_two_ranks(tmp_path: Path) -> None:
    """7 pairs in batches of 4: 14 rows, 8 a step, and the last step is not full on any split."""
    base = make_tiny_model(tmp_path / "base")
    settings = {"epochs": 2, "learning_rate": 3e-3, "save_steps": 100}
    whole = make_spec(tmp_path / "whole", base, random_pairs(7), "kto", micro_batch_size=8, **settings)
    split = make_spec(tmp_path / "split", base, random_pairs(7), "kto", micro_batch_size=2, **settings)
    process = fork(split, 2)
    counts = run_here(whole)
    assert (counts["pairs"], counts["rows"], counts["steps"]) == (7, 14, 4)
    finish(process, split)
    rows = read_metrics(whole.work / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[0]["loss"] == pytest.approx(0.5, abs=1e-4)  # r = 0 and z_ref = 0: 1 − σ(0)
    assert {"kl", "logps/chosen", "logps/rejected", "rewards/chosen", "rewards/rejected"} <= set(rows[0])
    assert "loss/nll" not in rows[0]
    assert rows[-1]["rewards/margins"] > rows[0]["rewards/margins"] + 0.01
    for one, other in zip(rows, read_metrics(split.work / "metrics.jsonl"), strict=True):
        for name in one:
            assert other[name] == pytest.approx(one[name], rel=1e-4, abs=1e-4), name
    assert largest_difference(whole.output, split.output) < 0.05 * settings["learning_rate"]


def test_a_micro_batch_of_one_row_gives_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """z_ref is estimated over the whole step. It is made positive, so that a wrong estimate would be seen."""
    monkeypatch.setattr("loops.train.can_compare", lambda train: False)  # the reference is another model
    base, other = make_tiny_model(tmp_path / "base", seed=3), make_tiny_model(tmp_path / "other", seed=4)
    pairs = random_pairs(7)
    objective = KTO(beta=0.1, nll_weight=1.0)
    sums = reference_logps(other, objective.reference_requests(pairs, seed=42))
    rows = objective.dataset(pairs, [logp - 40 for logp in sums], seed=42)
    settings = {"epochs": 2, "learning_rate": 3e-3}
    specs = []
    for name, micro in (("one", 1), ("two", 2), ("whole", 8)):
        specs.append(make_spec(tmp_path / name, base, pairs, "kto", micro_batch_size=micro, **settings))
        write_training_data(specs[-1].data, rows, KTOFamily.columns)
        run_here(specs[-1])
    expected = metrics(specs[0])
    assert [row["step"] for row in expected] == [1, 2, 3, 4]
    assert all(row["kl"] > 10 for row in expected)
    for spec in specs[1:]:
        for one, other_row in zip(expected, metrics(spec), strict=True):
            assert other_row.keys() == one.keys()
            for name in one:
                assert other_row[name] == pytest.approx(one[name], rel=1e-4, abs=1e-5), name
        assert largest_difference(specs[0].output, spec.output) < 0.02 * settings["learning_rate"]
