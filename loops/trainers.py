"""The loop around every objective: transformers' Trainer, with the loss taken out of its hands.

The Trainer brings the loop, the optimisers, DeepSpeed and checkpoints. What is minimised is the objective's own visible
function of log-probs, for which TRL's fused output head gives that of every response token without a
[batch, length, vocabulary] tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn import Module
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments
from trl.trainer import utils as trl_utils
from trl.trainer.utils import add_fused_lm_head

from icr.base.errors import UserError
from loops.batches import Batch, Row
from loops.checkpoints import Checkpoints
from loops.data import Rows, Schedule
from loops.objective import Objective
from loops.saving import Checkpointed
from loops.start import Start, measure_start, take_start

O_co = TypeVar("O_co", bound=Objective, covariant=True)


class RoundTrainer(Checkpointed, Generic[O_co]):
    """What all trainers share: prepared data, exact means, validation, checkpoints with a marker.

    A family's trainer writes `losses`, `prepare_step` where its loss needs something of a whole step, and
    `prepare_model` where it needs something of the model.
    """

    objective: O_co
    loss_is_scaled_for_ga = False
    """The Trainer has to divide a micro-batch's mean by the number of micro-batches."""
    on_start: Callable[[Start], None] | None = None
    """Hears how far policy and reference are apart before the first step; None: that is not looked at."""
    look_further: Callable[[RoundTrainer[Objective]], dict[str, float]] | None = None
    """More figures of a validation, taken on every rank from the model as it is."""

    def __init__(
        self,
        *,
        objective: O_co,
        schedule: Schedule,
        checkpoints: Checkpoints,
        model: PreTrainedModel | PeftModel,
        args: TrainingArguments,
        data_collator: Callable[[Sequence[Row]], Batch],
        callbacks: list[TrainerCallback],
    ) -> None:
        self.objective = objective
        self.schedule, self.checkpoints = schedule, checkpoints
        self._sums: dict[str, Tensor] = {}
        validation = None if schedule.validation is None else Rows(schedule.validation)
        super().__init__(
            model,
            args,
            data_collator,
            train_dataset=Rows(schedule.table),
            eval_dataset=validation,
            callbacks=callbacks,
        )
        self.prepare_model(model)

    def _prepare_inputs(self, inputs: Batch) -> Batch:
        """Move a batch to the device as it is. Under DeepSpeed the Trainer would cast it to the model's dtype, and in
        bf16 a reference log-prob of -1,765 nats becomes -1,768."""
        return {name: values.to(self.args.device) for name, values in inputs.items()}

    def prepare_model(self, model: PreTrainedModel | PeftModel) -> None:
        """Make of the model what `losses` wants of it, once, before the training."""

    def losses(self, model: Module, inputs: Batch) -> Tensor:
        """The loss of each row of a micro-batch, shape (B,); records metrics on its way."""
        raise NotImplementedError

    def prepare_step(self, batches: list[Batch]) -> None:
        """Look at all micro-batches of this process before an optimiser step, or before a validation."""

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        """The metrics of a step from its means."""
        return means

    def record(self, values: dict[str, Tensor], weights: Tensor) -> None:
        """Keep the weighted sums of values of shape (B,), of which `take_means` makes means over the rows."""
        for name, value in values.items():
            sums = torch.stack([(weights * value.detach()).sum(), weights.sum()])
            self._sums[name] = self._sums.get(name, torch.zeros_like(sums)) + sums

    def compare_start(self, policy: Tensor, reference: Tensor, lengths: Tensor, weights: Tensor) -> None:
        """Before the first step: keep how far log-probs of the policy are from those of the reference, which is the
        same model. All of shape (B,)."""
        if self.on_start is not None and self.state.global_step == 0 and torch.is_grad_enabled():
            self.record(measure_start(policy, reference, lengths), weights)

    def take_means(self) -> dict[str, float]:
        """Means of what was recorded since the last call, over the rows of all processes."""
        if not self._sums:
            return {}
        sums = self.accelerator.reduce(torch.stack(list(self._sums.values())), reduction="sum").tolist()
        means = {name: total / count for name, (total, count) in zip(self._sums, sums, strict=True) if count}
        self._sums.clear()
        return self.derived(means)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor | int | None]:
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.prepare_step(batches)
        return batches, items

    def compute_loss(
        self, model: Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        loss: Tensor = (self.losses(model, inputs) * inputs["weight"]).mean()
        return loss

    def evaluate(self, *args: object, **kwargs: object) -> dict[str, float]:
        """Mean loss and metrics over the rows held back, each under `eval_…`; the same however they are split."""
        batches = list(self.get_eval_dataloader())
        training = self.model_wrapped.training
        self.model_wrapped.eval()
        self.prepare_step(batches)
        for inputs in map(self._prepare_inputs, batches):
            with torch.no_grad(), self.compute_loss_context_manager():
                self.record({"loss": self.losses(self.model_wrapped, inputs)}, inputs["weight"])
        figures = self.take_means() | (self.look_further(self) if self.look_further else {})
        self.model_wrapped.train(training)
        found = {f"eval_{name}": value for name, value in figures.items()}
        self.log(dict(found))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        for name in ("loss", "eval_loss"):
            if not math.isfinite(logs.get(name, 0.0)):
                raise UserError(
                    f"the {'validation ' if name == 'eval_loss' else ''}loss became {logs[name]} "
                    f"at step {self.state.global_step}",
                    where="train.learning_rate, train.precision",
                    do="lower learning_rate, or set train.precision: fp32",
                )
        if "loss" in logs:
            logs.update(self.take_means())
            start = take_start(logs, self.objective.beta)
            if start is not None and self.on_start is not None:
                self.on_start(start)
        # all passes are one epoch to the Trainer; users count passes over the data
        self.state.epoch = self.schedule.epochs[self.state.global_step]
        super().log(logs, start_time)


class LanguageModelTrainer(RoundTrainer[O_co]):
    """A trainer whose loss is a function of the log-probs of responses."""

    def prepare_model(self, model: PreTrainedModel | PeftModel) -> None:
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        assert isinstance(base, PreTrainedModel)
        add_head(base)

    def response_logps(self, model: Module, inputs: Batch, prefix: str = "") -> Tensor:
        """Sums of the log-probs of the response tokens, shape (sequences,), in nats."""
        ids, mask = inputs[f"{prefix}input_ids"], inputs[f"{prefix}answer_mask"]
        return head_logps(model, ids, inputs[f"{prefix}attention_mask"], ids.masked_fill(mask == 0, -100))


def add_head(model: PreTrainedModel) -> None:
    """TRL's output head, over the positions of responses alone.

    Its own trainers have it compute entropies, mean logits and top-1 hits as well, on every call. And where Triton does
    not run it goes over the prompts and the padding, too, which takes half of a training's time on a processor.
    """
    add_fused_lm_head(model, outputs=("log_probs",))
    vars(trl_utils)["_use_triton"] = lambda device: (
        True
    )  # in that module, it decides on these positions and on nothing else


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
