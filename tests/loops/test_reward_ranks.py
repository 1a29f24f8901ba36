"""Two processes: ranks that share out the weights of a reward model begin with one head. They train what one process
does; so do those of a supervised fine-tuning, which answer validation rows together."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from icr.base.files import read_rows
from loops.data import ANSWERED, HELD, write_training_data
from loops.sft_family import SFTFamily
from loops.spec import TrainSpec
from tests.helpers.training_runs import (
    finish,
    fork,
    largest_difference,
    make_spec,
    metrics,
    random_pairs,
    run_here,
    validations,
    weights,
)  # fmt: skip

pytestmark = pytest.mark.timeout(600)


def test_zero3_draws_one_head_for_all_ranks(base: Path, tmp_path: Path) -> None:
    """With a learning rate of almost 0 the exported model is the one of the first step: its loss over all pairs, by an
    independent pass, is what the ranks have reported together."""
    pairs = random_pairs(8)
    spec = make_spec(
        tmp_path, base, pairs, "loops.reward:Pairwise", deepspeed="zero3", batch_size=8, micro_batch_size=2,
        learning_rate=1e-12,
    )  # fmt: skip
    finish(fork(spec, 2), spec)
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


@pytest.mark.parametrize(
    ("objective", "more"),
    [("loops.reward:Pointwise", {}), ("loops.reward:Pairwise", {"lora": {"rank": 2, "alpha": 8}})],
    ids=["pointwise", "pairwise with LoRA"],
)
def test_two_ranks_with_zero2_train_what_one_does(
    base: Path, tmp_path: Path, objective: str, more: dict[str, object]
) -> None:
    settings = {"batch_size": 8, "micro_batch_size": 2, "epochs": 2, **more}
    two = make_spec(tmp_path / "two", base, random_pairs(16), objective, deepspeed="zero2", **settings)
    finish(fork(two, 2), two)
    one = make_spec(tmp_path / "one", base, random_pairs(16), objective, **settings)
    run_here(one)
    found, expected = metrics(two), metrics(one)
    assert [row["step"] for row in found] == [row["step"] for row in expected] and len(found) >= 4
    for key in ("loss", "rewards/accuracies"):
        assert [row[key] for row in found] == pytest.approx([row[key] for row in expected], rel=1e-4)
    assert largest_difference(one.output, two.output) < 1e-4
    assert weights(two.output)["score.weight"].shape[0] == 1


def demonstrations(folder: Path, base: Path, **settings: object) -> TrainSpec:
    """Eight rows to train on, five for validation, of which three are answered: more than two ranks share evenly. Their
    demonstrations are what the base answers."""
    spec = make_spec(
        folder, base, random_pairs(13), "loops.sft:SFT", batch_size=4, micro_batch_size=2, epochs=2, **settings
    )
    rows = [{**row, HELD: n >= 8, ANSWERED: n >= 10} for n, row in enumerate(read_rows(spec.data))]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    for row in rows[10:]:
        ids = torch.tensor([row["prompt_ids"]])
        row["response_ids"] = model.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :].tolist()
    write_training_data(spec.data, rows, SFTFamily.columns)
    train = spec.train.model_copy(update={"validation_steps": 2})
    spec = spec.model_copy(update={"answer_tokens": 6, "train": train})
    (folder / "spec.json").write_text(spec.model_dump_json())
    return spec


def test_supervised_fine_tuning_with_zero2_on_two_ranks(base: Path, tmp_path: Path) -> None:
    two = demonstrations(tmp_path / "two", base, deepspeed="zero2")
    finish(fork(two, 2), two)
    one = demonstrations(tmp_path / "one", base)
    counts = run_here(one)
    found, expected = validations(two), validations(one)
    assert [row["step"] for row in found] == [row["step"] for row in expected] == [2, 4]
    for key in ("loss", "rouge_l", "answered"):
        assert [row[key] for row in found] == pytest.approx([row[key] for row in expected], rel=1e-4)
    assert counts["validation"]["answered"] == 3 and counts["validation"]["rouge_l"] > 0.1
    assert largest_difference(one.output, two.output) < 1e-4
