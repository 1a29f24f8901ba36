"""What happens between the steps of a training against a reward model: progress, measurements, and its end by KL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from icr.base.progress import EventFile
from loops.best import Best
from loops.callbacks import Progress


class Samples(Progress):
    """Optimiser steps done, the tokens of their prompts and samples, and the last measurement."""

    def __init__(self, events: EventFile) -> None:
        super().__init__(events, lambda state: int(state.num_input_tokens_seen))

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        assert metrics is not None
        if state.is_world_process_zero:
            self.events.status(f"held-out reward {metrics['eval_reward']:.3f}, KL {metrics['eval_kl']:.2f}")


class HeldOutSteps(TrainerCallback):
    """Measures every so many steps, after the last one, and at once where a step's own samples are too far away."""

    def __init__(self, every: int, is_far: Callable[[], bool]) -> None:
        """`is_far`: whether the KL of the last step's samples is above its bound; the same on every rank."""
        self.every, self.is_far = every, is_far

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if state.global_step % self.every == 0 or state.global_step >= state.max_steps or self.is_far():
            control.should_evaluate = True


class KeepWithin(TrainerCallback):
    """Keeps the policy of the last measurement whose KL is within the bound, and ends the training at the first one
    whose KL is not."""

    def __init__(self, max_kl: float, best: Best, export: Callable[[Path], None]) -> None:
        """`export`: writes the policy as it is now to a folder; called on every rank, writes on the first."""
        self.max_kl, self.best, self.export = max_kl, best, export

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        assert metrics is not None
        if metrics["eval_kl"] > self.max_kl:
            control.should_training_stop = True
        elif state.global_step:
            self.best.keep(state.global_step, -metrics["eval_reward_with_kl"], self.export, state.is_world_process_zero)
