"""The trainer of pairs: any `PairObjective` on the log-probs of both answers."""

from __future__ import annotations

import traceback

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
        losses, extra = self._ask_objective(
            PairLogps(
                policy_chosen, policy_rejected, reference_chosen, reference_rejected, chosen_lengths, rejected_lengths
            )
        )
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

    def _ask_objective(self, logps: PairLogps) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective's loss and values. Raises UserError if it fails or returns something else."""
        try:
            losses, extra = self.objective.loss(logps)
            values = {"the loss": losses, **extra}
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a user's method may fail in any way
            traceback.print_exc()
            raise UserError(
                f"{type(self.objective).__name__}.loss failed: {type(error).__name__}: {error}",
                where="objective",
                do="return the losses and a dict of named values; see the training's log for the traceback",
            ) from error
        expected = logps.policy_chosen.shape
        for name, value in values.items():
            if not isinstance(value, Tensor) or value.shape != expected:
                got = f"has shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"is a {type(value).__name__}"
                raise UserError(
                    f"{name} of {type(self.objective).__name__}.loss {got}",
                    where="objective",
                    do=f"return one value per pair, a tensor of shape {tuple(expected)}; the trainer takes the mean",
                )
        if logps.policy_chosen.requires_grad and not losses.requires_grad:
            raise UserError(
                f"the loss of {type(self.objective).__name__} does not depend on the policy: nothing would be trained",
                where="objective",
                do="compute it from policy_chosen and policy_rejected, without detach() or item()",
            )
        return losses, extra
