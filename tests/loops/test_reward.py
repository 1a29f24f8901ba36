"""The losses of reward models by hand, their batches, and the first values of a new head."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import Linear, Module
from transformers import TrainerControl, TrainerState

from loops.callbacks import StopEarly
from loops.families import family_of
from loops.reward import Pairwise, Pointwise, pairwise_loss, pointwise_loss
from loops.reward_model import PairwiseFamily, PointwiseFamily


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_the_pairwise_loss_by_hand() -> None:
    chosen, rejected = torch.tensor([1.0, -0.5]), torch.tensor([0.2, 0.25])
    plain = [-math.log(sigmoid(0.8)), -math.log(sigmoid(-0.75))]
    assert pairwise_loss(chosen, rejected).tolist() == pytest.approx(plain, abs=1e-6)
    margin = pairwise_loss(chosen, rejected, torch.tensor([2.0, 1.0]))
    assert margin.tolist() == pytest.approx([-math.log(sigmoid(-1.2)), -math.log(sigmoid(-1.75))], abs=1e-6)
    centred = pairwise_loss(chosen, rejected, center=0.1)
    assert centred.tolist() == pytest.approx([plain[0] + 0.1 * 1.44, plain[1] + 0.1 * 0.0625], abs=1e-6)
    assert pairwise_loss(torch.tensor([-200.0]), torch.tensor([200.0])).tolist() == pytest.approx([400.0])


def test_the_pointwise_loss_by_hand() -> None:
    """log(1 − σ(r)), not σ(1 − r), for a response that is not good."""
    found = pointwise_loss(torch.tensor([0.7, 0.7, -300.0]), torch.tensor([1.0, 0.0, 0.0]))
    assert found.tolist() == pytest.approx([-math.log(sigmoid(0.7)), -math.log(1 - sigmoid(0.7)), 0.0], abs=1e-6)
    assert pointwise_loss(torch.tensor([0.7]), torch.tensor([0.25])).item() == pytest.approx(
        -0.25 * math.log(sigmoid(0.7)) - 0.75 * math.log(1 - sigmoid(0.7)), abs=1e-6
    )


def objective(kind: type[Pairwise] | type[Pointwise]) -> Pairwise | Pointwise:
    made = kind(beta=0.1, nll_weight=1.0)
    made.configure({"pad": 7, "pad_token": "<pad>", "center": 0.5})
    return made


def test_batches() -> None:
    pairs = family_of(objective(Pairwise))
    assert type(pairs) is PairwiseFamily and pairs.objective.center == 0.5
    rows = [
        {"prompt_ids": [], "chosen_ids": [1, 2, 3], "rejected_ids": [4], "chosen_segments": [0, 0, 1],
         "rejected_segments": [0], "margin": 1.5, "weight": 1.0},
        {"prompt_ids": [], "chosen_ids": [5], "rejected_ids": [6, 6], "chosen_segments": [0],
         "rejected_segments": [0, 1], "margin": 0.0, "weight": 0.0},
    ]  # fmt: skip
    batch = pairs.collate(rows)
    assert batch["input_ids"].tolist() == [[1, 2, 3], [5, 7, 7], [4, 7, 7], [6, 6, 7]]
    assert batch["attention_mask"].sum(dim=1).tolist() == [3, 1, 1, 2]
    assert batch["token_type_ids"].tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert batch["margin"].tolist() == [1.5, 0] and batch["weight"].tolist() == [1, 0]
    ratings = family_of(objective(Pointwise))
    assert type(ratings) is PointwiseFamily
    row = {"prompt_ids": [9], "response_ids": [1], "response_segments": [0], "label": 1.0, "weight": 1.0}
    batch = ratings.collate([row, {**row, "response_ids": [1, 2], "response_segments": [0, 0], "label": 0.0}])
    assert batch["input_ids"].tolist() == [[9, 1, 7], [9, 1, 2]] and "token_type_ids" not in batch
    assert batch["label"].tolist() == [1, 0] and batch["label"].dtype == torch.float32
    assert ratings.config_changes()["pad_token_id"] == 7 and ratings.tokenizer_changes() == {"pad_token": "<pad>"}


def test_a_new_head_is_drawn_by_its_inputs_and_has_no_bias() -> None:
    class Model(Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.score = Linear(4000, 4000), Linear(4000, 1)

    model = Model()
    before, torch_seed = model.body.weight.clone(), torch.manual_seed(0)
    family = family_of(objective(Pairwise))
    family.start(model, ["score.weight", "score.bias"])
    assert torch_seed and torch.equal(model.body.weight, before)
    assert model.score.weight.std().item() == pytest.approx(4001**-0.5, rel=0.05)
    assert model.score.bias.tolist() == [0.0] and not model.score.bias.requires_grad
    kept = model.score.weight.clone()
    family.start(model, [])  # a base that has a head keeps it
    assert torch.equal(model.score.weight, kept)


@pytest.mark.parametrize(("before", "after", "stops"), [([3.0, 1.0], [2.0, 1.5], 2), ([], [3.0, 2.0, 1.0], 0)])
def test_patience_counts_validations_before_a_resume(
    tmp_path: Path, before: list[float], after: list[float], stops: int
) -> None:
    """Those after the checkpoint are done again, and do not count twice."""
    lines = [json.dumps({"step": n, "loss": loss}) for n, loss in enumerate([*before, 0.0], 1)]
    (tmp_path / "validation.jsonl").write_text("\n".join(lines) + "\n")
    stop = StopEarly(2, tmp_path / "validation.jsonl")
    args, state, control = SimpleNamespace(device="cpu"), TrainerState(global_step=len(before)), TrainerControl()
    stop.on_train_begin(args, state, control)  # type: ignore[arg-type]
    stopped = []
    for loss in after:
        stop.on_evaluate(args, state, control, metrics={"eval_loss": loss})  # type: ignore[arg-type]
        stopped.append(control.should_training_stop)
    assert stopped.index(True) + 1 == stops if stops else not any(stopped)
