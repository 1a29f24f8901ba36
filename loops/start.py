"""How far the policy is from its reference before the first step, where the two are one model.

The reference is scored by another process, in other batches: what is left between the two is rounding. More than that
means that the two are not computed in the same way, and a part of every reward in the training is that difference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import torch
from torch import Tensor

from icr.base.errors import UserError
from icr.base.files import read_json, write_json

if TYPE_CHECKING:
    from pathlib import Path

    from icr.config.schema import Train

PREFIX = "start/"
NOTED = 0.02
"""Nats a token beyond which the user hears of it. bf16 on another GPU kernel makes about 0.01."""
REFUSED = 0.5
"""Nats a token beyond which the two are not one model."""


class Start(TypedDict):
    """Means over the sequences of the first step, in nats."""

    gap: float
    """|log π(y|x) − log π_ref(y|x)| of a sequence."""
    gap_per_token: float
    reward_gap: float
    """β·gap: what it is worth in rewards."""


def measure_start(policy: Tensor, reference: Tensor, lengths: Tensor) -> dict[str, Tensor]:
    """Values to record, each of the shape of the three arguments."""
    return {f"{PREFIX}gap": (policy.detach() - reference).abs(), f"{PREFIX}tokens": lengths.to(torch.float32)}


def can_compare(train: Train) -> bool:
    """Dropout makes the policy's log-probs those of another model in each pass."""
    return not train.dropout and not (train.lora and train.lora.dropout)


def take_start(logs: dict[str, float], beta: float) -> Start | None:
    """What was recorded, taken out of the metrics of the first step; None where nothing was."""
    gap, tokens = logs.pop(f"{PREFIX}gap", None), logs.pop(f"{PREFIX}tokens", None)
    if gap is None or not tokens:
        return None
    return {"gap": gap, "gap_per_token": gap / tokens, "reward_gap": beta * gap}


def describe_start(start: Start) -> str | None:
    """A note, where it is more than rounding."""
    if start["gap_per_token"] <= NOTED:
        return None
    return (
        f"before the first step policy and reference are {start['gap']:.2f} nats a sequence apart "
        f"({start['gap_per_token']:.3f} a token, {start['reward_gap']:.3f} in rewards), "
        "more than rounding usually makes"
    )


def check_start(start: Start) -> None:
    """Raises UserError where policy and reference cannot be one model."""
    if start["gap_per_token"] > REFUSED:
        raise UserError(
            f"before the first step policy and reference are {start['gap_per_token']:.2f} nats a token apart, "
            "although they are one model: the training does not compute what the scorer does",
            where="train.precision, train.deepspeed",
            do="set train.precision: fp32, or another train.deepspeed",
        )


def read_start(path: Path) -> Start | None:
    start: Start | None = read_json(path) if path.exists() else None
    return start


def write_start(path: Path, start: Start) -> None:
    write_json(path, start)
