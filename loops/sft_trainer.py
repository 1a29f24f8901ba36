"""The trainer of supervised fine-tuning."""

from __future__ import annotations

from torch import Tensor
from torch.nn import Module

from loops.batches import Batch
from loops.sft import SFT, sft_loss
from loops.trainers import LanguageModelTrainer


class SFTTrainer(LanguageModelTrainer[SFT]):
    """Trains `loops.sft.SFT`."""

    def losses(self, model: Module, inputs: Batch) -> Tensor:
        logps, lengths = self.response_logps(model, inputs), inputs["answer_mask"].sum(dim=1)
        self.record({"logps/response": logps, "tokens": lengths.float()}, inputs["weight"])
        return sft_loss(logps, lengths)
