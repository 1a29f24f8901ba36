"""TRL's DPO and KTO trainers with the loss taken out of their hands.

TRL brings the loop, the collators and the fused output head, which gives the log-prob of every response token without
a [batch, length, vocabulary] tensor. What is minimised is the objective's own visible function of those log-probs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import is_peft_model
from torch import Tensor
from torch.nn import Module
from transformers import Trainer
from trl.trainer import dpo_trainer, kto_trainer
from trl.trainer import utils as trl_utils
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference, KTOTrainer
from trl.trainer.utils import add_fused_lm_head

from icr.base.errors import UserError
from loops.checkpoints import Checkpoints
from loops.data import Schedule
from loops.kto import KTO, AnswerLogps, reference_point
from loops.objective import PairLogps, PairObjective


class WeightedPairs(DataCollatorForPreference):
    """TRL's batch of pairs, and the weight of each."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        return {**super().torch_call(examples), "weight": torch.tensor([e["weight"] for e in examples])}


class WeightedAnswers(DataCollatorForUnpairedPreference):
    """TRL's batch of answers, and the weight of each."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        return {**super().torch_call(examples), "weight": torch.tensor([e["weight"] for e in examples])}


class RoundTrainer(Trainer):
    """What both trainers share: prepared data, exact means, checkpoints with a marker.

    It stands before TRL's trainers in the order of inheritance, so that its `super()` is TRL's method.
    """

    _metrics: dict[str, Any]
    """TRL's: what its `log` averages and reports."""

    def __init__(self, *, schedule: Schedule, checkpoints: Checkpoints, **kwargs: Any) -> None:
        self.schedule, self.checkpoints = schedule, checkpoints
        self._sums: dict[str, Tensor] = {}
        with _no_model_hash():
            super().__init__(**kwargs)
        model: Any = self.model
        add_head(model.get_base_model() if is_peft_model(model) else model)

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        return dataset  # token ids, and log-probs of the reference, are in the data file

    def _precompute_ref_logps(self, dataset: Any, *args: Any) -> Any:
        return dataset

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None for checkpoints; the exported model has its own."""

    def response_logps(self, model: Module, inputs: dict[str, Tensor], prefix: str = "") -> Tensor:
        """Sums of the log-probs of the response tokens, shape (sequences,), in nats."""
        ids, mask = inputs[f"{prefix}input_ids"], inputs[f"{prefix}completion_mask"]
        return head_logps(model, ids, inputs[f"{prefix}attention_mask"], ids.masked_fill(mask == 0, -100))

    def record(self, values: dict[str, Tensor], weights: Tensor) -> None:
        """Keep the weighted sums of values of shape (B,); `log` turns them into means over the optimiser step."""
        for name, value in values.items():
            sums = torch.stack([(weights * value.detach()).sum(), weights.sum()])
            self._sums[name] = self._sums.get(name, torch.zeros_like(sums)) + sums

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if not math.isfinite(logs.get("loss", 0.0)):
            raise UserError(
                f"the loss became {logs['loss']} at step {self.state.global_step}",
                where="train.learning_rate, train.precision",
                do="lower the learning rate, or train in fp32",
            )
        if self._sums:
            sums = self.accelerator.reduce(torch.stack(list(self._sums.values())), reduction="sum").tolist()
            means = {name: total / count for name, (total, count) in zip(self._sums, sums, strict=True) if count}
            self._metrics["train"].update({name: [mean] for name, mean in self.derived(means).items()})
            self._sums.clear()
        # all passes are one epoch to the Trainer; users count passes over the data
        self.state.epoch = self.schedule.epochs[self.state.global_step]
        super().log(logs, start_time)

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        """The metrics of a step from its means."""
        return means

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        # DeepSpeed's own checkpoint has the weights; a second copy would only cost time and disk
        if not self.is_deepspeed_enabled:
            super().save_model(output_dir, _internal_call)

    def _save_checkpoint(self, model: Module, trial: Any) -> None:
        if self.state.global_step == self.state.max_steps:
            return  # the export follows at once
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # every rank has written its part
        if self.is_world_process_zero():
            self.checkpoints.complete(self.state.global_step)


class PairTrainer(RoundTrainer, DPOTrainer):
    """Trains a `PairObjective`."""

    objective: PairObjective

    def __init__(self, *, objective: PairObjective, **kwargs: Any) -> None:
        self.objective = objective
        super().__init__(**kwargs)

    def compute_loss(
        self, model: Module, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        policy_chosen, policy_rejected = self.response_logps(model, inputs).chunk(2)
        chosen_lengths, rejected_lengths = inputs["completion_mask"].sum(dim=1).chunk(2)
        reference_chosen, reference_rejected = inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
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
        loss: Tensor = (losses * inputs["weight"]).mean()
        return loss

    def _check_shapes(self, values: dict[str, Tensor], expected: torch.Size) -> None:
        for name, value in values.items():
            if value.shape != expected:
                raise UserError(
                    f"{name} of {type(self.objective).__name__}.loss has shape {tuple(value.shape)}",
                    where="objective",
                    do=f"return one value per pair, here shape {tuple(expected)}; the trainer takes the mean",
                )


class AnswerTrainer(RoundTrainer, KTOTrainer):
    """Trains KTO. z_ref is estimated once per optimiser step, over all its rows on all ranks.

    With one micro-batch per step this is TRL's estimate; with more of them it still is the same number, so that KTO,
    too, gives one result however a step is split.
    """

    objective: KTO

    def __init__(self, *, objective: KTO, **kwargs: Any) -> None:
        self.objective = objective
        super().__init__(**kwargs)

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Tensor]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Tensor]], Any]:
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._z_ref = self._reference_point(batches)
        return batches, items

    def _reference_point(self, batches: list[dict[str, Tensor]]) -> Tensor:
        sums = torch.zeros(2, device=self.accelerator.device)
        # in eval mode no dropout is drawn, so that a resumed training draws what an unbroken one does
        self.model_wrapped.eval()
        for inputs in map(self._prepare_inputs, batches):
            with torch.no_grad():
                ratio = self.response_logps(self.model_wrapped, inputs, "KL_") - inputs["ref_KL_logps"]
            sums += torch.stack([(inputs["weight"] * ratio).sum(), inputs["weight"].sum()])
        self.model_wrapped.train()
        total, count = self.accelerator.reduce(sums, reduction="sum")
        return reference_point(total / count, self.objective.beta)

    def compute_loss(
        self, model: Module, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        policy, reference, desirable = self.response_logps(model, inputs), inputs["ref_logps"], inputs["label"].bool()
        losses = self.objective.loss(AnswerLogps(policy, reference, desirable), self._z_ref)
        weight = inputs["weight"]
        self.record({"kl": (self._z_ref / self.objective.beta).expand_as(policy)}, weight)
        for kind, of_kind in (("chosen", desirable), ("rejected", ~desirable)):
            values = {f"logps/{kind}": policy, f"rewards/{kind}": self.objective.beta * (policy - reference)}
            self.record(values, weight * of_kind)
        loss: Tensor = (losses * weight).mean()
        return loss

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        if "rewards/chosen" in means and "rewards/rejected" in means:
            means["rewards/margins"] = means["rewards/chosen"] - means["rewards/rejected"]
        return means


def add_head(model: Any) -> None:
    """TRL's output head, over the positions of responses alone.

    Its own trainers have it compute entropies, mean logits and top-1 hits as well, on every call. And where Triton does
    not run it goes over the prompts and the padding, too, which takes half of a training's time on a processor.
    """
    add_fused_lm_head(model, outputs=("log_probs",))
    utils: Any = trl_utils
    utils._use_triton = lambda device: True  # in that module, it decides on these positions and on nothing else


def head_logps(model: Module, ids: Tensor, attention: Tensor, labels: Tensor) -> Tensor:
    """Sums of the log-probs of the labelled tokens, by the head of `add_head`.

    Args:
        ids, attention, labels: shape (sequences, length); labels are -100 outside the responses.

    Returns:
        Shape (sequences,), in nats.
    """
    outputs = model(input_ids=ids, attention_mask=attention, labels=labels, fused_lm_head=True, use_cache=False)
    log_probs: Tensor = outputs.log_probs
    return log_probs.float().sum(dim=1)


@contextmanager
def _no_model_hash() -> Iterator[None]:
    """TRL hashes all weights to name a cache of reference log-probs, which is not used here; 8B take half a minute."""
    modules: Any = (dpo_trainer, kto_trainer)
    saved = [module.hash_module for module in modules]
    for module in modules:
        module.hash_module = lambda _: ""
    try:
        yield
    finally:
        for module, function in zip(modules, saved, strict=True):
            module.hash_module = function
