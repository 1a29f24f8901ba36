"""Families of training: batches by hand, and other kinds that fit into the same places."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from icr.base.errors import UserError
from loops.dpo import DPO
from loops.families import family_of, pad_sequences
from loops.kto import KTO
from loops.kto_family import KTOFamily
from loops.objective import PairObjective, make_objective
from loops.pair_family import PairFamily
from tests.helpers.tiny_models import make_tiny_model
from tests.helpers.training_runs import (
    exact_logp,
    largest_difference,
    make_spec,
    metrics,
    random_pairs,
    run_here,
    validations,
    weights,
)

ROW = {"prompt_ids": [5, 6], "weight": 1.0}


def test_the_family_of_an_objective() -> None:
    class Own(PairObjective):
        def loss(self, logps):  # type: ignore[no-untyped-def]
            return logps.policy_chosen, {}

    assert type(family_of(DPO(beta=0.1, nll_weight=1.0))) is PairFamily
    assert type(family_of(Own(beta=0.1, nll_weight=1.0))) is PairFamily
    assert type(family_of(KTO(beta=0.1, nll_weight=1.0))) is KTOFamily
    Own.family = ""
    with pytest.raises(UserError, match="Own has no family of training"):
        family_of(Own(beta=0.1, nll_weight=1.0))


def test_padding() -> None:
    ids, attention, answer = pad_sequences([([5, 6], [7]), ([8], [9, 10, 11])])
    assert ids.tolist() == [[5, 6, 7, 0], [8, 9, 10, 11]]
    assert attention.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert answer.tolist() == [[0, 0, 1, 0], [0, 1, 1, 1]]


def test_a_batch_of_pairs() -> None:
    rows = [
        {**ROW, "chosen_ids": [7], "rejected_ids": [8, 9], "ref_chosen_logps": -1.0, "ref_rejected_logps": -2.0},
        {**ROW, "chosen_ids": [3], "rejected_ids": [4], "ref_chosen_logps": -3.0, "ref_rejected_logps": -4.0},
    ]
    batch = PairFamily(DPO(beta=0.1, nll_weight=1.0)).collate(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 0], [5, 6, 3, 0], [5, 6, 8, 9], [5, 6, 4, 0]]
    assert batch["answer_mask"].sum(dim=1).tolist() == [1, 1, 2, 1]
    assert batch["ref_chosen_logps"].tolist() == [-1, -3] and batch["ref_rejected_logps"].tolist() == [-2, -4]
    assert batch["weight"].tolist() == [1, 1] and batch["weight"].dtype == torch.float32


def test_a_batch_of_answers() -> None:
    row = {**ROW, "completion_ids": [7], "KL_completion_ids": [8, 9], "ref_logps": -1.0, "ref_KL_logps": -2.0}
    batch = KTOFamily(KTO(beta=0.1, nll_weight=1.0)).collate([{**row, "label": True}, {**row, "label": False}])
    assert batch["input_ids"].tolist() == [[5, 6, 7]] * 2 and batch["KL_input_ids"].tolist() == [[5, 6, 8, 9]] * 2
    assert batch["KL_answer_mask"].tolist() == [[0, 0, 1, 1]] * 2
    assert batch["label"].tolist() == [True, False] and batch["label"].dtype == torch.bool
    assert batch["ref_logps"].tolist() == [-1, -1] and batch["ref_KL_logps"].tolist() == [-2, -2]


def test_supervised_fine_tuning_needs_no_reference(base: Path, tmp_path: Path) -> None:
    """The loss before the first step against fp64; the validation's, of the exported model, too."""
    pairs = random_pairs(7)
    name = "loops.sft:SFT"
    assert make_objective(name, beta=0.1, nll_weight=1.0).reference_requests(pairs) == []
    spec = make_spec(tmp_path / "run", base, pairs[:4], name)
    run_here(spec)
    nll = [-exact_logp(base, p["prompt_ids"], p["chosen_ids"]) / len(p["chosen_ids"]) for p in pairs[:4]]
    assert metrics(spec)[0]["loss"] == pytest.approx(np.mean(nll), rel=1e-6)
    held = make_spec(tmp_path / "held", base, pairs, name, validation=3)
    assert run_here(held)["validation"]["rows"] == 3 and len(validations(held)) == 1
    assert largest_difference(base, held.output) > 1e-4


@pytest.mark.parametrize("tied", [True, False])
def test_a_classifier_exports_a_classifier(tmp_path: Path, tied: bool) -> None:
    """Bradley–Terry from a language model: a new head, no output matrix, and a folder that loads as a classifier."""
    base = make_tiny_model(tmp_path / "base", tied=tied, dtype=torch.bfloat16)
    pairs = random_pairs(8)
    settings = {"epochs": 8, "batch_size": 8, "micro_batch_size": 4, "learning_rate": 3e-3}
    spec = make_spec(tmp_path / "run", base, pairs, "loops.reward:Pairwise", **settings)
    run_here(spec)
    rows = metrics(spec)
    # −log σ is convex: the mean loss is at least the loss of the mean margin, and near it while margins are small
    of_mean = math.log(1 + math.exp(-rows[0]["rewards/margins"]))
    assert of_mean <= rows[0]["loss"] < of_mean + 1
    before, after = weights(base), weights(spec.output)
    assert set(after) == (set(before) - {"lm_head.weight"}) | {"score.weight"}
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    config = json.loads((spec.output / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"] and config["id2label"] == {"0": "reward"}
    model, loaded = AutoModelForSequenceClassification.from_pretrained(
        spec.output, output_loading_info=True, dtype=torch.float32
    )
    assert not loaded["missing_keys"] and not loaded["unexpected_keys"]

    def reward(pair: dict[str, list[int]], side: str) -> float:
        return float(model(input_ids=torch.tensor([pair["prompt_ids"] + pair[side]])).logits[0, 0].detach())

    margins = [reward(pair, "chosen_ids") - reward(pair, "rejected_ids") for pair in pairs]
    assert np.mean(margins) > rows[0]["rewards/margins"] + 0.5
    assert np.mean(margins) > rows[-1]["rewards/margins"] - 0.2  # one step on from there, in bf16


def test_a_classifier_by_lora(base: Path, tmp_path: Path) -> None:
    """The head is trained whole beside the adapter, and both are in the exported model."""
    spec = make_spec(
        tmp_path / "run", base, random_pairs(8), "loops.reward:Pairwise", lora={"rank": 2},
        learning_rate=1e-2, epochs=4, gradient_checkpointing=True,
    )  # fmt: skip
    run_here(spec)
    rows = metrics(spec)
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.05
    before, after = weights(base), weights(spec.output)
    assert set(after) == (set(before) - {"lm_head.weight"}) | {"score.weight"}
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-3) == 2
