"""The trainer of pairs: any `PairObjective` on the log-probs of both answers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Module

from icr.base.errors import UserError
from loops.batches import Batch
from loops.objective import PairLogps, PairObjective, has_plain_reference
from loops.trainers import LanguageModelTrainer


class PairTrainer(LanguageModelTrainer[PairObjective]):
    """Trains a `PairObjective`."""

    def losses(self, model: Module, inputs: Batch) -> Tensor:
        policy_chosen, policy_rejected = self.response_logps(model, inputs).chunk(2)
        chosen_lengths, rejected_lengths = inputs["answer_mask"].sum(dim=1).chunk(2)
        reference_chosen, reference_rejected = inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
        if has_plain_reference(self.objective):
            for policy, reference, lengths in (
                (policy_chosen, reference_chosen, chosen_lengths),
                (policy_rejected, reference_rejected, rejected_lengths),
            ):
                self.compare_start(policy, reference, lengths, inputs["weight"])
        losses, extra = self.objective.loss(
            PairLogps(
                policy_chosen, policy_rejected, reference_chosen, reference_rejected, chosen_lengths, rejected_lengths
            )
        )
        self._check_shapes({"the loss": losses, **extra}, policy_chosen.shape)
        chosen = self.objective.beta * (policy_chosen - reference_chosen)
        rejected = self.objective.beta * (policy_rejected - reference_rejected)
        metrics = {
            "logps/chosen": policy_chosen,
            "logps/rejected": policy_rejected,
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/margins": chosen - rejected,
            "rewards/accuracies": (chosen > rejected).float(),
            **extra,
        }
        self.record(metrics, inputs["weight"])
        return losses

    def _check_shapes(self, values: dict[str, Tensor], expected: torch.Size) -> None:
        for name, value in values.items():
            if value.shape != expected:
                raise UserError(
                    f"{name} of {type(self.objective).__name__}.loss has shape {tuple(value.shape)}",
                    where="objective",
                    do=f"return one value per pair, here shape {tuple(expected)}; the trainer takes the mean",
                )
