"""What happens between the steps of a training: progress, metrics, checkpoints by the clock, the best model."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from icr.base.files import write_text
from icr.base.progress import EventFile
from loops.best import Best


class Progress(TrainerCallback):
    """Optimiser steps done, and the tokens that went through the model since this process began."""

    def __init__(self, events: EventFile, count: Callable[[TrainerState], int]) -> None:
        """`count`: the tokens of all steps of the training so far."""
        self.events, self.count = events, count
        self.before = 0

    def _report(self, state: TrainerState) -> None:
        if state.is_world_process_zero:
            self.events.progress(state.global_step, state.max_steps, self.count(state) - self.before)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self.before = self.count(state)
        self._report(state)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self._report(state)


class MetricsFile(TrainerCallback):
    """`metrics.jsonl`: each optimiser step once, also after a resume."""

    prefix = ""
    """Of the names of the metrics to be written, which are written without it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Take back the steps after the checkpoint: they are done again."""
        if state.is_world_process_zero and self.path.exists():
            kept = [row for row in read_metrics(self.path) if row["step"] <= state.global_step]
            write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        if state.is_world_process_zero and logs and f"{self.prefix}loss" in logs:
            metrics = {name.removeprefix(self.prefix): value for name, value in logs.items() if name != "epoch"}
            row = {"step": state.global_step, "epoch": state.epoch, **metrics}
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


class ValidationFile(MetricsFile):
    """`validation.jsonl`: each validation once, also after a resume."""

    prefix = "eval_"


class SaveByTime(TrainerCallback):
    """A checkpoint at the end of the first optimiser step after so many minutes without one."""

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: seconds from some moment on."""
        self.seconds, self.clock = 60 * minutes, clock
        self.last = clock()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self.last = self.clock()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if agree(self.clock() - self.last >= self.seconds, args.device) and state.global_step < state.max_steps:
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        self.last = self.clock()  # when it has been written, which takes its time


class KeepBest(TrainerCallback):
    """The best validated model so far, as a whole model folder."""

    def __init__(self, best: Best, export: Callable[[Path], None], by: str = "loss") -> None:
        """
        Args:
            export: writes the model as it is now to a folder; called on every rank, writes on the first.
            by: as for `cost_of`.
        """
        self.best, self.export, self.by = best, export, by

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        assert metrics is not None
        cost = cost_of(metrics, self.by, ValidationFile.prefix)
        if agree(self.best.is_beaten_by(cost), args.device):
            self.best.keep(state.global_step, cost, self.export, state.is_world_process_zero)


class StopEarly(TrainerCallback):
    """Ends the training after so many validations in a row that are not better than the best before."""

    def __init__(self, patience: int, path: Path, by: str = "loss") -> None:
        """
        Args:
            path: of `validation.jsonl`, from which a resumed training knows the validations before.
            by: as for `cost_of`.
        """
        self.patience, self.path, self.by = patience, path, by
        self.costs: list[float] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        before = [row for row in read_metrics(self.path) if row["step"] <= state.global_step]
        self.costs = [cost_of(row, self.by) for row in before]

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        assert metrics is not None
        self.costs.append(cost_of(metrics, self.by, ValidationFile.prefix))
        since_best = len(self.costs) - 1 - self.costs.index(min(self.costs))
        if agree(since_best >= self.patience, args.device):
            control.should_training_stop = True


def cost_of(metrics: Mapping[str, float], by: str, prefix: str = "") -> float:
    """What the best validation has least of.

    Args:
        by: `loss`, or a figure of which more is better.
        prefix: of the names in `metrics`.
    """
    value = metrics[f"{prefix}{by}"]
    return value if by == "loss" else -value


def agree(decision: bool, device: torch.device) -> bool:
    """The first rank's decision, on every rank: clocks differ, and ranks that do different things would wait
    forever."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return decision
    decided = torch.tensor(int(decision), device=device)
    dist.broadcast(decided, src=0)
    return bool(decided.item())


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a `metrics.jsonl`; a last line that a kill cut short is left out."""
    if not path.exists():
        return []
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]
