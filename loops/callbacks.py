"""What a training tells while it runs: its progress, and a line of metrics per optimiser step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from icr.base.files import write_text
from icr.base.progress import EventFile
from loops.data import Schedule


class Progress(TrainerCallback):
    """Optimiser steps done, and the tokens that went through the model since this process began."""

    def __init__(self, events: EventFile, schedule: Schedule) -> None:
        self.events, self.schedule = events, schedule
        self.begun_at = 0

    def _tell(self, state: TrainerState) -> None:
        if state.is_world_process_zero:
            tokens = self.schedule.tokens[state.global_step] - self.schedule.tokens[self.begun_at]
            self.events.progress(state.global_step, state.max_steps, tokens)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.begun_at = state.global_step
        self._tell(state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._tell(state)


class MetricsFile(TrainerCallback):
    """`metrics.jsonl`: each optimiser step once, also after a resume."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take back the steps after the checkpoint: they are done again."""
        if state.is_world_process_zero:
            kept = [row for row in read_metrics(self.path) if row["step"] <= state.global_step]
            write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero and logs and "loss" in logs:
            row = {"step": state.global_step, "epoch": state.epoch, **logs}
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`; a last line that a kill cut short is left out."""
    if not path.exists():
        return []
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]
