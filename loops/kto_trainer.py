"""The trainer of KTO (Eq. 16), with z_ref (Eq. 17) estimated over whole optimiser steps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Module

from loops.batches import Batch
from loops.kto import KTO, AnswerLogps, reference_point
from loops.trainers import LanguageModelTrainer


class KTOTrainer(LanguageModelTrainer[KTO]):
    """Trains KTO. z_ref is estimated once per optimiser step, over all its rows on all ranks.

    With one micro-batch per step this is TRL's estimate; with more of them it still is the same number, so that KTO,
    too, gives one result however a step is split. A validation's z_ref is that of all its rows.
    """

    _z_ref: Tensor

    def prepare_step(self, batches: list[Batch]) -> None:
        sums = torch.zeros(2, device=self.accelerator.device)
        training = self.model_wrapped.training
        # in eval mode no dropout is drawn, so that a resumed training draws what an unbroken one does
        self.model_wrapped.eval()
        for inputs in map(self._prepare_inputs, batches):
            with torch.no_grad(), self.compute_loss_context_manager():
                ratio = self.response_logps(self.model_wrapped, inputs, "KL_") - inputs["ref_KL_logps"]
            sums += torch.stack([(inputs["weight"] * ratio).sum(), inputs["weight"].sum()])
        self.model_wrapped.train(training)
        total, count = self.accelerator.reduce(sums, reduction="sum")
        self._z_ref = reference_point(total / count, self.objective.beta)

    def losses(self, model: Module, inputs: Batch) -> Tensor:
        policy, reference, desirable = self.response_logps(model, inputs), inputs["ref_logps"], inputs["label"]
        self.compare_start(policy, reference, inputs["answer_mask"].sum(dim=1), inputs["weight"])
        losses = self.objective.loss(AnswerLogps(policy, reference, desirable), self._z_ref)
        weight = inputs["weight"]
        self.record({"kl": (self._z_ref / self.objective.beta).expand_as(policy)}, weight)
        for kind, of_kind in (("chosen", desirable), ("rejected", ~desirable)):
            values = {f"logps/{kind}": policy, f"rewards/{kind}": self.objective.beta * (policy - reference)}
            self.record(values, weight * of_kind)
        return losses

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        if "rewards/chosen" in means and "rewards/rejected" in means:
            means["rewards/margins"] = means["rewards/chosen"] - means["rewards/rejected"]
        return means
