"""What every trainer has in common when it saves: a checkpoint counts once all ranks have written their part of it."""

from __future__ import annotations

import torch
from torch.nn import Module
from transformers import Trainer

from loops.checkpoints import Checkpoints


class Checkpointed(Trainer):
    """A trainer whose checkpoints have a marker."""

    checkpoints: Checkpoints

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        # DeepSpeed's own checkpoint has the weights; a second copy would only cost time and disk
        if not self.is_deepspeed_enabled:
            super().save_model(output_dir, _internal_call)

    def any_rank(self, value: bool) -> bool:
        """Whether it is true on any rank; to be called on every rank."""
        flag = torch.tensor(float(value), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, reduction="sum") > 0)

    def save_checkpoint(self) -> None:
        """Save the training as it is now; to be called on every rank."""
        self._write_checkpoint(self.model_wrapped, None)

    def _save_checkpoint(self, model: Module, trial: object) -> None:
        if self.state.global_step != self.state.max_steps:  # at the end the export follows at once
            self._write_checkpoint(model, trial)

    def _write_checkpoint(self, model: Module, trial: object) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # every rank has written its part
        if self.is_world_process_zero():
            self.checkpoints.complete(self.state.global_step)
