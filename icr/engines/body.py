"""A model without its head: hidden states of texts, and the sizes of its token embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from icr.base.errors import UserError
from icr.base.progress import Reporter, Silent
from icr.engines.attention import choose_attention
from icr.engines.classifier import longest_input
from icr.engines.memory import loading, work_in_batches
from icr.engines.models import read_tokenizer
from icr.engines.tokens import guard_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Place = Literal["last", "mean"]
"""Of a text's states: the last token's, or the mean over its tokens."""
_SILENT = Silent()
Floats = NDArray[np.float32]


class Represented(NamedTuple):
    """One text as a model sees it."""

    states: list[Floats]
    """Shape (dimensions,) each: after the embeddings, and after every layer."""
    norms: Floats
    """Euclidean norm of the input embedding of each token, without the special tokens around the text."""


class Body:
    """A loaded model in fp32: bf16 would hide small distances to a base."""

    def __init__(self, name: str, batch_tokens: int) -> None:
        """Load weights (safetensors only, no remote code) and tokenizer.

        Raises:
            UserError: they cannot be loaded, or weights are missing. DoesNotFit: no memory for them.
        """
        import torch

        with loading(name, torch.float32):
            self.model = _load(name, "cuda" if torch.cuda.is_available() else "cpu")
        self.model.eval()  # type: ignore[no-untyped-call]
        self.tokenizer = read_tokenizer(name)
        self._batch_tokens = batch_tokens
        config = self.model.config.get_text_config()
        self.longest = longest_input(config, self.tokenizer)
        self._pad = config.pad_token_id or 0

    def represent(self, texts: Sequence[str], place: Place, reporter: Reporter = _SILENT) -> list[Represented | None]:
        """Each text by itself, without a chat template; None where it is longer than the model reads.

        Args:
            place: of the states. The mean is over all tokens, the special ones included.
        """
        guard, special = guard_of(self.tokenizer), set(self.tokenizer.all_special_ids)
        rows = [guard.encode_whole(text) for text in texts]
        found: list[Represented | None] = [None] * len(rows)
        fitting = [n for n, ids in enumerate(rows) if 0 < len(ids) <= self.longest]
        done = 0

        def run(left: list[int], budget: int) -> Iterator[list[int]]:
            nonlocal done
            for batch in _batches(sorted(left, key=lambda n: len(rows[n])), rows, budget):
                for n, states in zip(batch, self._forward([rows[n] for n in batch], place), strict=True):
                    found[n] = Represented(states, self._norms([id for id in rows[n] if id not in special]))
                done += len(batch)
                reporter.progress(done, len(rows))
                yield batch

        work_in_batches(fitting, self._batch_tokens, run, lambda n: len(rows[n]), self.model, reporter)
        return found

    def _norms(self, ids: Sequence[int]) -> Floats:
        import torch

        table = self.model.get_input_embeddings().weight
        assert isinstance(table, torch.Tensor)
        with torch.inference_mode():
            norms: Floats = table[torch.tensor(ids, dtype=torch.long, device=table.device)].norm(dim=1).cpu().numpy()
        return norms

    def _forward(self, rows: Sequence[Sequence[int]], place: Place) -> list[list[Floats]]:
        """By text, by layer."""
        import torch

        width, device = max(map(len, rows)), self.model.device
        ids = torch.tensor([[*row, *[self._pad] * (width - len(row))] for row in rows], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
        with torch.inference_mode():
            layers = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
            if place == "last":
                ends = mask.sum(dim=1) - 1
                kept = [layer[torch.arange(len(rows), device=device), ends] for layer in layers]
            else:
                shares = (mask / mask.sum(dim=1, keepdim=True)).unsqueeze(-1)
                kept = [(layer * shares).sum(dim=1) for layer in layers]
        arrays = [layer.float().cpu().numpy() for layer in kept]
        return [[layer[n] for layer in arrays] for n in range(len(rows))]


def _batches(order: Sequence[int], rows: Sequence[Sequence[int]], budget: int) -> Iterator[list[int]]:
    """Rows of rising length, as many as fit into `budget` tokens with their padding."""
    batch: list[int] = []
    for n in order:
        if batch and (len(batch) + 1) * len(rows[n]) > budget:
            yield batch
            batch = []
        batch.append(n)
    if batch:
        yield batch


def _load(name: str, device: str) -> PreTrainedModel:
    import torch
    from transformers import AutoModel

    try:
        model, report = AutoModel.from_pretrained(
            name,
            dtype=torch.float32,
            device_map={"": device},
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            attn_implementation=choose_attention(name),
        )
    except (OSError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        do = "name a model with safetensors weights; an offline machine needs a local folder"
        raise UserError(f"the model cannot be loaded: {first}", where=name, do=do) from error
    if missing := sorted(key for key in report["missing_keys"] if not key.startswith("pooler.")):
        what = f"the model has no weights for {', '.join(missing[:3])}: its states would be random"
        raise UserError(what, where=name, do="name another model, or a folder with all of its weights")
    loaded: PreTrainedModel = model
    return loaded
