"""Supervised fine-tuning: the loss of demonstrations, and the objective that the training knows it by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from loops.objective import Objective, Pair, Request, named_prompt


def sft_loss(logps: Tensor, lengths: Tensor) -> Tensor:
    """−log π(y|x) / |y|: the mean negative log-likelihood of a response's tokens.

    Args:
        logps: log π(y|x), sums over a response's tokens in nats, of shape (B,).
        lengths: |y|, tokens of the response, its end of turn included, of shape (B,).

    Returns:
        Shape (B,).
    """
    return -logps / lengths


class SFT(Objective):
    """`sft_loss` over demonstrations: the chosen answers, where there are pairs."""

    family: ClassVar[str] = "loops.sft_family:SFTFamily"

    def reference_requests(self, pairs: Sequence[Pair], *, seed: int = 0) -> list[Request]:
        return []

    def dataset(
        self, pairs: Sequence[Pair], reference_logps: Sequence[float], *, seed: int = 0
    ) -> list[dict[str, object]]:
        return [{**named_prompt(pair), "response_ids": pair["chosen_ids"]} for pair in pairs]
