"""The output head of a causal LM: from last hidden states to log-probs of tokens, a few rows of logits at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from icr.base.errors import UserError
from icr.engines.precision import computed_in

HEAD_ROWS = 256
"""Rows of logits that exist at a time. 256 of a 262k vocabulary are 270 MB in fp32; with fewer the head runs slower."""


@dataclass(frozen=True)
class OutputHead:
    projection: nn.Module
    scale: float
    softcap: float | None
    vocabulary: int
    """Token ids below this one can be both read and predicted."""

    @staticmethod
    def of(model: PreTrainedModel) -> OutputHead:
        """The head of a model. Raises UserError if it has none."""
        config = model.config.get_text_config()
        projection = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        if projection is None:
            raise UserError(f"{type(model).__name__} has no output head", do="use a causal language model")
        # Cohere multiplies its logits, Granite divides them, Gemma caps them. Other ways are for `check` to find.
        scale = getattr(config, "logit_scale", None) or 1.0 / (getattr(config, "logits_scaling", None) or 1.0)
        embeddings = cast(nn.Embedding, model.get_input_embeddings())
        vocabulary = min(embeddings.weight.shape[0], cast(Tensor, projection.weight).shape[0])
        return OutputHead(projection, scale, getattr(config, "final_logit_softcapping", None), vocabulary)

    def logits(self, hidden: Tensor) -> Tensor:
        """fp32 [rows, vocabulary] from hidden states [rows, width]."""
        logits: Tensor = self.projection(hidden).float()
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits

    def logps(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """fp32 [rows]: log p(target) in nats for hidden states [rows, width] and targets [rows]."""
        chunks = zip(torch.split(hidden, HEAD_ROWS), torch.split(targets, HEAD_ROWS), strict=True)
        return torch.cat([-F.cross_entropy(self.logits(h), t, reduction="none") for h, t in chunks])

    def check(self, model: PreTrainedModel, piece: list[int]) -> None:
        """Compare with the model's own logits on a short piece; raises UserError if they differ."""
        inputs = torch.tensor([piece], device=model.device)
        expected = model(input_ids=inputs, use_cache=False).logits[0].float()
        found = self.logits(model.base_model(input_ids=inputs, use_cache=False).last_hidden_state[0])
        error, size = (found - expected).abs().max().item(), expected.abs().max().item()
        if error > max(1e-4, 4 * torch.finfo(computed_in(model)).eps) * size:
            raise UserError(
                f"{type(model).__name__} computes its logits in an unsupported way: they differ by {error:.3g}",
                do="use a causal language model whose logits are its output head applied to its last hidden states",
            )
