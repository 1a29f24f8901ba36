"""LoRA's targets are checked against the model's modules, without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from icr.base.errors import UserError
from icr.config.schema import Lora, Train
from loops.fit import check_trainable


def train(targets: Any) -> Train:
    return Train(precision="fp32", lora=Lora(target_modules=targets))


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj"], ["self_attn.v_proj", "up_proj"], ".*layers.1.*k_proj"])
def test_good_targets(base: Path, targets: Any) -> None:
    for objective in ("dpo", "kto", "loops.reward:Pairwise"):
        check_trainable(base, "models.policy", train(targets), objective)


@pytest.mark.parametrize(
    ("targets", "what", "do"),
    [
        (["q_porj", "v_proj"], "LlamaForCausalLM has no module named q_porj", "did you mean q_proj?"),
        (["query_key_value"], "has no module named query_key_value", "q_proj, k_proj, v_proj, o_proj, gate_proj"),
        ("q_proj|v_proj", "has a name that q_proj|v_proj matches as a whole", "all-linear"),
        ("q_proj(", "is not a regular expression", ""),
        (["input_layernorm"], "LoRA cannot be applied to these modules", "all-linear"),
        (["lm_head"], "LoRA cannot be applied to the output head", "remove the output head"),
    ],
)
def test_bad_targets(base: Path, targets: Any, what: str, do: str) -> None:
    with pytest.raises(UserError) as caught:
        check_trainable(base, "models.policy", train(targets), "dpo")
    (problem,) = caught.value.problems  # type: ignore[attr-defined]
    assert what in problem.what and do in problem.do and problem.where == "train.lora.target_modules"


def test_no_lora(base: Path) -> None:
    check_trainable(base, "models.policy", Train(precision="fp32"), "dpo")
