"""Eq. 11 against hand calculation, autograd in fp64, and TRL."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from loops.dpo import DPO, dpo_nll_loss, dpo_term, nll_term
from loops.objective import PairLogps
from loops.pair_family import PairFamily
from loops.pair_trainer import PairTrainer
from loops.train import Checkpoints, EventFile, build_trainer, plan
from tests.helpers.tiny_models import make_tiny_model
from tests.helpers.training_runs import make_spec, random_pairs, reference_logps


def logps(policy_chosen: Any, policy_rejected: Any, reference_chosen: Any, reference_rejected: Any) -> PairLogps:
    """Two pairs in fp64; the chosen answers have 4 and 10 tokens."""
    made = [
        t if isinstance(t, torch.Tensor) else torch.tensor(t, dtype=torch.float64)
        for t in (policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    ]
    return PairLogps(*made, chosen_lengths=torch.tensor([4, 10]), rejected_lengths=torch.tensor([7, 3]))


def test_hand_calculated() -> None:
    """First pair: Δ = (−8 + 10) − (−21 + 20) = 3, β·Δ = 0.3, −log σ(0.3) = log(1 + e^−0.3); NLL 8/4 = 2.

    Second pair: Δ = (−30 + 26) − (−9 + 10) = −5, β·Δ = −0.5, −log σ(−0.5) = log(1 + e^0.5); NLL 30/10 = 3.
    """
    batch = logps([-8.0, -30.0], [-21.0, -9.0], [-10.0, -26.0], [-20.0, -10.0])
    preference = [math.log(1 + math.exp(-0.3)), math.log(1 + math.exp(0.5))]
    assert dpo_term(batch, 0.1).tolist() == pytest.approx(preference, rel=1e-15)
    assert nll_term(batch).tolist() == [2.0, 3.0]
    expected = [2 + preference[0], 3 + preference[1]]
    assert dpo_nll_loss(batch, 0.1).tolist() == pytest.approx(expected, rel=1e-15)
    weighted = dpo_nll_loss(batch, 0.1, nll_weight=0.5).tolist()
    assert weighted == pytest.approx([1 + preference[0], 1.5 + preference[1]], rel=1e-15)
    losses, parts = DPO(beta=0.1, nll_weight=1.0).loss(batch)
    assert losses.tolist() == pytest.approx(expected, rel=1e-15)
    assert parts["loss/nll"].tolist() == [2.0, 3.0]


def test_gradient() -> None:
    """d loss/d log π(y₊) = −1/|y₊| − β·σ(−β·Δ) and d loss/d log π(y₋) = β·σ(−β·Δ); the reference has none."""
    chosen = torch.tensor([-8.0, -30.0], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([-21.0, -9.0], dtype=torch.float64, requires_grad=True)
    batch = logps(chosen, rejected, [-10.0, -26.0], [-20.0, -10.0])
    dpo_nll_loss(batch, 0.1).sum().backward()
    push = [0.1 / (1 + math.exp(0.3)), 0.1 / (1 + math.exp(-0.5))]
    assert chosen.grad is not None and rejected.grad is not None
    assert chosen.grad.tolist() == pytest.approx([-1 / 4 - push[0], -1 / 10 - push[1]], rel=1e-14)
    assert rejected.grad.tolist() == pytest.approx(push, rel=1e-14)
    assert torch.autograd.gradcheck(
        lambda c, r: dpo_nll_loss(logps(c, r, [-10.0, -26.0], [-20.0, -10.0]), 0.1), (chosen, rejected)
    )


class PlainTRL(DPOTrainer):
    """TRL's own loss, on our data."""

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *args: Any) -> Any:
        return dataset


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(loss by TRL, loss by us) of the pairs with these numbers as one micro-batch."""
    root = tmp_path_factory.mktemp("trl")
    base = make_tiny_model(root / "base", seed=3)
    other = make_tiny_model(root / "other", seed=4)
    pairs = random_pairs(4, seed=5)
    objective = DPO(beta=0.1, nll_weight=1.0)
    # the reference is another model, so that Δ is not 0
    rows = objective.dataset(pairs, reference_logps(other, objective.reference_requests(pairs)))
    spec = make_spec(root / "run", base, pairs)
    tokenizer = AutoTokenizer.from_pretrained(base)
    family = PairFamily(objective)
    schedule = plan(spec, family, base, 1)
    ours = build_trainer(spec, family, base, schedule, Checkpoints(root / "c", 1), EventFile(spec.events))
    assert isinstance(ours, PairTrainer)
    args = DPOConfig(
        output_dir=str(root / "trl"),
        loss_type=["sigmoid", "sft"],
        beta=0.1,
        max_length=None,
        precompute_ref_log_probs=True,
        bf16=False,
        use_cpu=True,
        report_to="none",
    )
    theirs = PlainTRL(
        model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    collate = DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id)

    def losses(numbers: list[int]) -> tuple[float, float]:
        plain = collate([rows[n] for n in numbers])
        inputs = family.collate([{**rows[n], "weight": 1.0} for n in numbers])
        with torch.no_grad():
            return float(theirs.compute_loss(theirs.model, plain)), float(ours.compute_loss(ours.model, inputs))

    return losses


def test_equals_trl_at_micro_batch_one(batches: Any) -> None:
    for number in range(4):
        theirs, ours = batches([number])
        assert ours == pytest.approx(theirs, rel=1e-6)


def test_is_per_sequence_at_micro_batch_two(batches: Any) -> None:
    """Ours is the mean of the single losses; TRL's weighs the NLL by length, and is not."""
    singles = [batches([n])[1] for n in (0, 1)]
    theirs, ours = batches([0, 1])
    assert ours == pytest.approx(sum(singles) / 2, rel=1e-6)
    assert abs(theirs - ours) > 1e-3


def test_padding_and_company_change_nothing(batches: Any, tmp_path: Path) -> None:
    singles = [batches([n])[1] for n in range(4)]
    assert batches([3, 1, 0, 2])[1] == pytest.approx(sum(singles) / 4, rel=1e-6)
