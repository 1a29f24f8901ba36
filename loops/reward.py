"""The two losses of reward models, and the objectives that the training knows them by. Imports only torch.

Both are of a classifier's one logit, r(x, y): the reward of a response y to a prompt x.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from loops.objective import SIDES, Objective, Pair, Request, Setting, named_prompt


def pairwise_loss(chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.0, center: float = 0.0) -> Tensor:
    """Bradley–Terry: −log σ(r_w − r_l − m) + c·(r_w + r_l)².

    Args:
        chosen, rejected: r(x, y_w) and r(x, y_l), of shape (B,).
        margin: m, by how much the chosen one has to be better; of shape (B,), or one number.
        center: c ≥ 0, which keeps rewards around 0.

    Returns:
        Shape (B,).
    """
    return -F.logsigmoid(chosen - rejected - margin) + center * (chosen + rejected) ** 2


def pointwise_loss(rewards: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy: −[z·log σ(r) + (1 − z)·log(1 − σ(r))]. The last term of arXiv 2404.12318 is a misprint.

    Args:
        rewards: r(x, y), of shape (B,).
        labels: z, 1 for a good response and 0 for another, of shape (B,).

    Returns:
        Shape (B,).
    """
    return -(labels * F.logsigmoid(rewards) + (1 - labels) * F.logsigmoid(-rewards))


class RewardObjective(Objective):
    """What both have in common: a classifier with one logit, and no reference."""

    pad: int = 0
    """The id of the token that fills up a batch. A decoder reads its logit before the first one."""
    pad_token: str | None = None
    """How it is written; None: as the base's tokenizer has it."""

    def configure(self, settings: Mapping[str, Setting]) -> None:
        self.pad = int(settings.get("pad", 0))
        token = settings.get("pad_token")
        self.pad_token = None if token is None else str(token)

    def reference_requests(self, pairs: Sequence[Pair], *, seed: int = 0) -> list[Request]:
        return []


class Pairwise(RewardObjective):
    """−log σ(r_w − r_l − m) + c·(r_w + r_l)² over pairs."""

    family: ClassVar[str] = "loops.reward_model:PairwiseFamily"
    center: float = 0.0

    def configure(self, settings: Mapping[str, Setting]) -> None:
        super().configure(settings)
        self.center = float(settings.get("center", 0.0))

    def dataset(
        self, pairs: Sequence[Pair], reference_logps: Sequence[float], *, seed: int = 0
    ) -> list[dict[str, object]]:
        """A row a pair, without margins; each answer follows the prompt, and all tokens are of one segment."""
        return [
            {
                **named_prompt(pair),
                **{name: pair[name] for name in SIDES},
                **{name.replace("_ids", "_segments"): [0] * len(pair[name]) for name in SIDES},
                "margin": 0.0,
            }
            for pair in pairs
        ]


class Pointwise(RewardObjective):
    """−[z·log σ(r) + (1 − z)·log(1 − σ(r))] over ratings."""

    rows_per_pair: ClassVar[int] = 1
    """`batch_size` counts ratings."""

    family: ClassVar[str] = "loops.reward_model:PointwiseFamily"

    def dataset(
        self, pairs: Sequence[Pair], reference_logps: Sequence[float], *, seed: int = 0
    ) -> list[dict[str, object]]:
        """Two ratings a pair: the chosen answer is good, the rejected one is not."""
        return [
            {
                **named_prompt(pair),
                "response_ids": pair[name],
                "response_segments": [0] * len(pair[name]),
                "label": float(name == "chosen_ids"),
            }
            for pair in pairs
            for name in SIDES
        ]
