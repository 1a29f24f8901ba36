"""The trainers of reward models."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor
from torch.nn import Module

from loops.batches import Batch
from loops.reward import Pairwise, Pointwise, RewardObjective, pairwise_loss, pointwise_loss
from loops.trainers import RoundTrainer

R_co = TypeVar("R_co", bound=RewardObjective, covariant=True)
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class RewardTrainer(RoundTrainer[R_co]):
    """A trainer whose loss is a function of rewards."""

    def rewards(self, model: Module, inputs: Batch) -> Tensor:
        """r of every sequence, of shape (sequences,), in fp32."""
        logits: Tensor = model(**{name: inputs[name] for name in INPUTS if name in inputs}).logits
        return logits[:, 0].float()


class PairwiseTrainer(RewardTrainer[Pairwise]):
    """Trains `loops.reward.Pairwise`."""

    def losses(self, model: Module, inputs: Batch) -> Tensor:
        chosen, rejected = self.rewards(model, inputs).chunk(2)
        right = (chosen > rejected).float() + 0.5 * (chosen == rejected).float()
        metrics = {
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/margins": chosen - rejected,
            "rewards/accuracies": right,
        }
        self.record(metrics, inputs["weight"])
        return pairwise_loss(chosen, rejected, inputs["margin"], self.objective.center)


class PointwiseTrainer(RewardTrainer[Pointwise]):
    """Trains `loops.reward.Pointwise`."""

    def losses(self, model: Module, inputs: Batch) -> Tensor:
        rewards, labels = self.rewards(model, inputs), inputs["label"]
        right = ((rewards > 0) == (labels > 0.5)).float()
        self.record({"rewards/mean": rewards, "rewards/accuracies": right}, inputs["weight"])
        return pointwise_loss(rewards, labels)
