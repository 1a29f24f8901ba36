"""KTO on the same pairs: chosen answers are desirable, rejected ones undesirable (arXiv 2503.04647, Eq. 16 and 17).

A pair becomes two rows. Beside its own answer a row carries a mismatched one, the answer of the same kind to another
prompt, for the estimate of the KL: all pairs are put in one random circle (seeded), and each takes the answers of
its neighbour. So the mismatches are fixed before the training, the reference scores them together with the rest, and
they do not depend on micro-batches, processes or the order of training.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from loops.objective import SIDES, NamedPrompt, Objective, Pair, Request, check_answers, named_prompt

if TYPE_CHECKING:
    from typing_extensions import ReadOnly


@dataclass(frozen=True)
class AnswerLogps:
    """One micro-batch of B answers; every tensor has shape (B,). Log-probs are sums over tokens, in nats."""

    policy: Tensor
    reference: Tensor
    desirable: Tensor
    """bool: the chosen answers."""


def kto_loss(
    logps: AnswerLogps, z_ref: Tensor, beta: float, desirable_weight: float = 1.0, undesirable_weight: float = 1.0
) -> Tensor:
    """Eq. 16 for each answer, shape (B,): λ_y − v, with r = log π(y|x)/π_ref(y|x) and

    v = λ_w·σ(β·r − z_ref) for desirable answers, λ_l·σ(z_ref − β·r) for undesirable ones.
    """
    reward = beta * (logps.policy - logps.reference)
    sign = torch.full_like(reward, -1.0).masked_fill(logps.desirable, 1.0)
    weight = torch.full_like(reward, undesirable_weight).masked_fill(logps.desirable, desirable_weight)
    return weight - weight * torch.sigmoid(sign * (reward - z_ref))


def reference_point(mean_log_ratio: Tensor, beta: float) -> Tensor:
    """Eq. 17: z_ref = β·KL(π‖π_ref), the KL estimated by the mean log-ratio (nats) of mismatched answers.

    The KL is not negative, its estimate may be: it is cut at 0. z_ref is a level to compare with, not trained through.
    """
    return (beta * mean_log_ratio).clamp(min=0).detach()


def class_weights(desirable: int, undesirable: int) -> tuple[float, float]:
    """(λ_w, λ_l) from the counts, such that λ_w·n_w = λ_l·n_l and the smaller of the two is 1.

    λ_w = max(1, n_l/n_w) and λ_l = max(1, n_w/n_l). Pairs give as many of each, hence 1 and 1, unless rows
    were dropped.
    """
    if not desirable or not undesirable:
        return 1.0, 1.0
    return max(1.0, undesirable / desirable), max(1.0, desirable / undesirable)


class AnswerRow(NamedPrompt):
    """Half a pair: one of its answers, in token ids, before the reference has scored it."""

    completion_ids: ReadOnly[Sequence[int]]
    KL_completion_ids: ReadOnly[Sequence[int]]
    """The mismatched answer."""
    label: bool
    """Whether it is the chosen one."""


class KTO(Objective):
    """`objective: kto`. There is no NLL term in Eq. 16: `nll_weight` has no effect."""

    family: ClassVar[str] = "loops.kto_family:KTOFamily"
    rows_per_pair: ClassVar[int] = 2

    desirable_weight = 1.0
    undesirable_weight = 1.0

    def set_counts(self, desirable: int, undesirable: int) -> None:
        """Take λ from the rows that are trained on."""
        self.desirable_weight, self.undesirable_weight = class_weights(desirable, undesirable)

    def loss(self, logps: AnswerLogps, z_ref: Tensor) -> Tensor:
        """The loss of each answer, shape (B,)."""
        return kto_loss(logps, z_ref, self.beta, self.desirable_weight, self.undesirable_weight)

    def reference_requests(self, pairs: Sequence[Pair], *, seed: int = 0) -> list[Request]:
        return [
            (list(row["prompt_ids"]), list(answer))
            for row in self._rows(pairs, seed)
            for answer in (row["completion_ids"], row["KL_completion_ids"])
        ]

    def dataset(
        self, pairs: Sequence[Pair], reference_logps: Sequence[float], *, seed: int = 0
    ) -> list[dict[str, object]]:
        check_answers(pairs)
        own, mismatched = reference_logps[0::2], reference_logps[1::2]
        return [
            {**row, "ref_logps": float(o), "ref_KL_logps": float(m)}
            for row, o, m in zip(self._rows(pairs, seed), own, mismatched, strict=True)
        ]

    def _rows(self, pairs: Sequence[Pair], seed: int) -> list[AnswerRow]:
        return [
            {
                **named_prompt(pair),
                "completion_ids": pair[side],
                "KL_completion_ids": pairs[other][side],
                "label": side == "chosen_ids",
            }
            for pair, other in zip(pairs, neighbours(pairs, seed), strict=True)
            for side in SIDES
        ]


def neighbours(pairs: Sequence[Pair], seed: int) -> list[int]:
    """For each pair the index of the pair before it in a random circle, skipping those of the same prompt.

    If all pairs have the same prompt there is no mismatch, and each pair is its own neighbour.
    """
    circle = random.Random(seed).sample(range(len(pairs)), len(pairs))
    found = list(range(len(pairs)))
    for place, index in enumerate(circle):
        for back in range(1, len(circle)):
            other = circle[place - back]
            if list(pairs[other]["prompt_ids"]) != list(pairs[index]["prompt_ids"]):
                found[index] = other
                break
    return found
