"""Rows of tokens through a model with little waste: rows of like length together, and a beginning that several rows
share once, its keys and values copied to their rows.

A shared beginning here is a *prompt*; its last token is computed with each row that goes on from it, so that no row is
ever empty.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

SHARING_PAYS = 0.1
"""A prompt is computed once for its rows when that saves this part of their tokens."""

FULL_SPEED = {"cpu": 512, "cuda": 4096}
"""Tokens of a forward pass beyond which more rows bring no speed, and padding decides where a batch ends."""

MAX_PADDING = 0.05
"""Part of a batch that may be padding once it has FULL_SPEED tokens."""

Ids = Sequence[int]
Prompt = tuple[int, ...]
Key = TypeVar("Key", bound=Hashable)


def full_speed(model: PreTrainedModel) -> int:
    """Of the model's device, see FULL_SPEED."""
    return FULL_SPEED.get(model.device.type, FULL_SPEED["cuda"])


def sharing_pays(prompt: Ids, rows: int, tokens: int) -> bool:
    """Whether computing a prompt once for its rows saves enough. `tokens`: of all these rows, prompts included."""
    return (rows - 1) * (len(prompt) - 1) >= SHARING_PAYS * tokens


def common_beginning(rows: Sequence[list[int]]) -> Prompt:
    """The tokens that all rows begin with."""
    first, last = min(rows), max(rows)  # in the order of their tokens: what these two share, all between them do
    same = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return tuple(first[:same])


def may_share(model: PreTrainedModel) -> bool:
    """Whether keys and values of a prompt can be copied to its rows, by the model's kind. A trial has to confirm it."""
    config, accepted = model.config.get_text_config(), inspect.signature(model.base_model.forward).parameters
    kinds = set(getattr(config, "layer_types", None) or ())
    chunked = getattr(config, "attention_chunk_size", None)
    if chunked or not kinds <= {"full_attention", "sliding_attention"}:
        return False
    return {"past_key_values", "position_ids"} <= set(accepted)


def pad_rows(model: PreTrainedModel, rows: Sequence[Ids], left: bool = False) -> Tensor:
    """int64 [rows, longest]. The padding is 0; nothing attends to it."""
    width = max(map(len, rows))
    fill = [[0] * (width - len(ids)) for ids in rows]
    padded = [[*f, *ids] if left else [*ids, *f] for ids, f in zip(rows, fill, strict=True)]
    return torch.tensor(padded, dtype=torch.long, device=model.device)


def prefill(model: PreTrainedModel, prompts: Sequence[Prompt], budget: int) -> tuple[DynamicCache, Tensor]:
    """Keys and values of the prompts without their last tokens, and the mask [prompts, longest - 1] of real tokens.

    Prompts of like length run together; then all are padded to the longest, for their rows to be sorted freely. They
    are padded on the left, as in generation, so that their ends meet the rows: a sliding window counts columns.

    Args:
        prompts: the longest first.
        budget: tokens of a forward pass.
    """
    caches, masks = [], []
    for part in make_batches({prompt: len(prompt) - 1 for prompt in prompts}, budget, full_speed(model)):
        mask = pad_rows(model, [[1] * (len(prompt) - 1) for prompt in part], left=True)
        caches.append(DynamicCache(config=model.config))
        masks.append(F.pad(mask, (len(prompts[0]) - 1 - mask.shape[1], 0)))
        model.base_model(
            input_ids=pad_rows(model, [prompt[:-1] for prompt in part], left=True),
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            past_key_values=caches[-1],
            use_cache=True,
        )
    for layer, *others in zip(*(cache.layers for cache in caches), strict=True) if len(caches) > 1 else ():
        # The first part is the widest, so its layers know the right number of columns, also where a window cut them.
        width = layer.keys.shape[-2]
        for name in ("keys", "values"):
            parts = [getattr(part, name) for part in (layer, *others)]
            setattr(layer, name, torch.cat([F.pad(part, (0, 0, width - part.shape[-2], 0)) for part in parts]))
    return caches[0], torch.cat(masks)


def continue_rows(
    model: PreTrainedModel, cache: DynamicCache, mask: Tensor, lines: Sequence[int], rows: Sequence[Ids]
) -> Tensor:
    """Hidden states [rows, longest, width] of rows that go on from prompts, padded on the right.

    Args:
        cache, mask: of `prefill`; both stay as they are.
        lines: of each row, the place of its prompt.
        rows: each from its prompt's last token on.
    """
    of, inputs = torch.tensor(lines, device=mask.device), pad_rows(model, rows)
    output = model.base_model(
        input_ids=inputs,
        attention_mask=torch.cat([mask[of], torch.ones_like(inputs)], dim=1),
        position_ids=mask[of].sum(1, keepdim=True) + torch.arange(inputs.shape[1], device=mask.device),
        past_key_values=_select(cache, of),
        use_cache=True,
    )
    return cast(Tensor, output.last_hidden_state)


def _select(cache: DynamicCache, lines: Tensor) -> DynamicCache:
    """A new cache of the given lines. Layers replace their tensors, never write into them: `cache` stays as it is."""
    selected = copy.copy(cache)
    selected.layers = [copy.copy(layer) for layer in cache.layers]
    selected.batch_select_indices(lines)
    return selected


def make_batches(
    lengths: Mapping[Key, int], budget: int, full_speed: float = math.inf, beside: int = 0
) -> Iterator[list[Key]]:
    """Keys of like length together, the longest first.

    A batch ends where a further row would take it past `budget` tokens, its padding and `beside` per row counted; or,
    once it has `full_speed` tokens, would make more than MAX_PADDING of it padding. A batch has one row at least.
    """
    batch: list[Key] = []
    width = used = 0
    for key in sorted(lengths, key=lengths.__getitem__, reverse=True):
        size, padding = (len(batch) + 1) * width, (len(batch) + 1) * width - used - lengths[key]
        wasteful = len(batch) * width >= full_speed and padding > MAX_PADDING * size
        if batch and (size + (len(batch) + 1) * beside > budget or wasteful):
            yield batch
            batch, used = [], 0
        width = width if batch else lengths[key]
        used += lengths[key]
        batch.append(key)
    if batch:
        yield batch
