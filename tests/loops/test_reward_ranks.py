"""A reward model on two processes: ranks that share out the weights begin with one head."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from tests.helpers.training_runs import finish, make_spec, metrics, random_pairs, start, weights

pytestmark = pytest.mark.timeout(600)


def test_zero3_draws_one_head_for_all_ranks(base: Path, tmp_path: Path) -> None:
    """With a learning rate of almost 0 the exported model is the one of the first step: its loss over all pairs, by an
    independent pass, is what the ranks have reported together."""
    pairs = random_pairs(8)
    spec = make_spec(
        tmp_path, base, pairs, "loops.reward:Pairwise", deepspeed="zero3", batch_size=8, micro_batch_size=2,
        learning_rate=1e-12,
    )  # fmt: skip
    finish(start(spec, 2), spec)
    head = weights(spec.output)["score.weight"]
    assert head.shape[0] == 1 and head.std().item() == pytest.approx((head.shape[1] + 1) ** -0.5, rel=0.4)
    model = AutoModelForSequenceClassification.from_pretrained(spec.output, dtype=torch.float64).eval()

    def reward(ids: list[int]) -> float:
        with torch.no_grad():
            return float(model(input_ids=torch.tensor([ids])).logits[0, 0])

    losses = [
        math.log1p(math.exp(reward(p["prompt_ids"] + p["rejected_ids"]) - reward(p["prompt_ids"] + p["chosen_ids"])))
        for p in pairs
    ]
    assert metrics(spec)[0]["loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-5)
