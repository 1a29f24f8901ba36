"""Log-probabilities of whole responses, what Eq. 9 and Eq. 12 subtract from one another.

The score of y is the sum over its own tokens: the first one, predicted by the last token of the prompt, is counted, and
nothing after the last one is. The authors' scorer shifts its mask against its labels and loses the first.

How it is fast: only the positions that predict response tokens go through the output head, a few at a time; rows of
like length run together; and a prompt that several responses share runs once, its keys and values copied to their rows.
None of this changes a result by more than the rounding of the model's dtype.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from icr.base.errors import UserError
from icr.base.progress import Reporter, Silent
from icr.engines.head import OutputHead
from icr.engines.memory import work_in_batches
from icr.engines.precision import computed_in
from icr.pairs import pair_flips

PIECE = 16
"""Tokens of the first sequence on which the model is checked."""

SHARING_PAYS = 0.1
"""A prompt is computed once for its responses when that saves this part of their tokens."""

FULL_SPEED = {"cpu": 512, "cuda": 4096}
"""Tokens of a forward pass beyond which more rows bring no speed, and padding decides where a batch ends."""

MAX_PADDING = 0.05
"""Part of a batch that may be padding once it has FULL_SPEED tokens."""

__all__ = ["pair_flips", "sequence_logprobs"]

_SILENT = Silent()

Ids = Sequence[int]
Prompt = tuple[int, ...]
Sums = NDArray[np.float64]
Key = TypeVar("Key", bound=Hashable)


def sequence_logprobs(
    model: PreTrainedModel,
    prompts: Sequence[Ids],
    responses: Sequence[Ids],
    *,
    batch_tokens: int = 16384,
    share_prompts: bool | None = None,
    reporter: Reporter = _SILENT,
) -> Sums:
    """log p(response | prompt) of every response: the sum over its tokens, in nats.

    Args:
        model: a causal LM in eval mode, run on its own device and in its own dtype, or under autocast where the caller
            has set that. Log-sum-exp is fp32, sums are fp64.
        prompts: token ids, the i-th conditioning the i-th response. Equal prompts are recognised.
        responses: token ids, the end-of-turn token among them if it is to be counted.
        batch_tokens: tokens, padding included, of one forward pass; a longer sequence runs alone. Where a prompt is
            shared, its copied keys and values count as tokens. Halved, with a note, when the device's memory runs out.
        share_prompts: compute a prompt once for its responses. None: where that pays and the model's cache allows it.
            True falls back to whole rows, with a note, where the cache does not allow it.
        reporter: hears responses done, of how many, and the prompt and response tokens they have.

    Returns:
        float64, one sum per response. A response without tokens is an empty sum, 0.0.

    Raises:
        ValueError: unequal numbers of prompts and responses, an empty prompt, a token id outside the vocabulary,
            a model in training mode.
        UserError: hidden states and output head do not give the model's own logits (an architecture that is not
            supported); a sum is not finite.
        DoesNotFit: one sequence alone does not fit the device's memory.
    """
    if model.training:
        raise ValueError("the model is in training mode; call model.eval() before scoring")
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens must be positive, got {batch_tokens}")
    head = OutputHead.of(model)
    _check_ids(prompts, responses, head.vocabulary)
    sums = np.zeros(len(responses))
    rows = [i for i, response in enumerate(responses) if len(response)]
    if rows:
        with torch.no_grad():
            piece = [*prompts[rows[0]], *responses[rows[0]]][:PIECE]
            head.check(model, piece)
            share = share_prompts if share_prompts is False or _can_share(model, head, piece, reporter) else False
            if share_prompts and not share:
                reporter.note(f"{type(model).__name__} cannot share prompts between responses: scoring whole rows")
            task = _Task(model, head, prompts, responses, share)
            _fill(sums, rows, task, batch_tokens, reporter)
    return sums


@dataclass(frozen=True)
class _Task:
    model: PreTrainedModel
    head: OutputHead
    prompts: Sequence[Ids]
    responses: Sequence[Ids]
    share: bool | None

    def tokens(self, row: int) -> int:
        return len(self.prompts[row]) + len(self.responses[row])

    def shares(self, prompt: Prompt, rows: list[int]) -> bool:
        """Whether the prompt of these rows is computed once: where that saves enough, unless the caller decides."""
        saved = (len(rows) - 1) * (len(prompt) - 1)
        if self.share is None:
            return saved >= SHARING_PAYS * sum(self.tokens(i) for i in rows)
        return self.share and saved > 0

    def full_speed(self) -> int:
        return FULL_SPEED.get(self.model.device.type, FULL_SPEED["cuda"])

    def tensor(self, rows: Sequence[Ids], pad_left: bool = False) -> Tensor:
        """int64 [rows, longest]. The padding is 0; nothing attends to it."""
        width = max(map(len, rows))
        fill = [[0] * (width - len(ids)) for ids in rows]
        padded = [[*f, *ids] if pad_left else [*ids, *f] for ids, f in zip(rows, fill, strict=True)]
        return torch.tensor(padded, dtype=torch.long, device=self.model.device)


def _fill(sums: Sums, rows: list[int], task: _Task, batch_tokens: int, reporter: Reporter) -> None:
    """Score `rows` into `sums`."""
    done, tokens = len(sums) - len(rows), 0

    def run(left: list[int], budget: int) -> Iterator[list[int]]:
        nonlocal done, tokens
        for batch, values in _forwards(task, left, budget):
            _check_finite(batch, values)
            sums[batch] = values
            done, tokens = done + len(batch), tokens + sum(map(task.tokens, batch))
            reporter.progress(done, len(sums), tokens)
            yield batch

    work_in_batches(rows, batch_tokens, run, task.tokens, task.model, reporter)


def _forwards(task: _Task, rows: list[int], budget: int) -> Iterator[tuple[list[int], Sums]]:
    """Every row in one forward pass or another: rows of shared prompts behind their prompt, the others whole."""
    by_prompt: dict[Prompt, list[int]] = {}
    for i in rows:
        by_prompt.setdefault(tuple(task.prompts[i]), []).append(i)
    shared = {prompt: members for prompt, members in by_prompt.items() if task.shares(prompt, members)}
    yield from _shared_forwards(task, shared, budget)
    yield from _whole_forwards(task, [i for i in rows if tuple(task.prompts[i]) not in shared], budget)


def _whole_forwards(task: _Task, rows: list[int], budget: int) -> Iterator[tuple[list[int], Sums]]:
    """A row is prompt and response, padded on the right, where a causal model never looks."""
    # The last token is predicted and predicts nothing, so it is no input.
    for batch in _batches({i: task.tokens(i) - 1 for i in rows}, budget, task.full_speed()):
        inputs = task.tensor([[*task.prompts[i], *task.responses[i][:-1]] for i in batch])
        hidden = task.model.base_model(input_ids=inputs, use_cache=False).last_hidden_state
        yield batch, _row_sums(task, batch, hidden, [len(task.prompts[i]) - 1 for i in batch])


def _shared_forwards(task: _Task, rows_of: Mapping[Prompt, list[int]], budget: int) -> Iterator[tuple[list[int], Sums]]:
    """A prompt without its last token once, into a cache; then rows of that token and the response without its last.

    Prompts are padded on the left, as in generation, so that their ends meet the responses: a sliding window counts
    columns. Every column of the second pass predicts one response token.
    """
    for group in _batches({prompt: len(prompt) - 1 for prompt in rows_of}, budget):
        cache, mask = _prefill(task, group, budget)
        line = {i: n for n, prompt in enumerate(group) for i in rows_of[prompt]}
        lengths = {i: len(task.responses[i]) for i in line}
        for batch in _batches(lengths, budget, task.full_speed(), beside=mask.shape[1]):
            lines = torch.tensor([line[i] for i in batch], device=mask.device)
            inputs = task.tensor([[task.prompts[i][-1], *task.responses[i][:-1]] for i in batch])
            output = task.model.base_model(
                input_ids=inputs,
                attention_mask=torch.cat([mask[lines], torch.ones_like(inputs)], dim=1),
                position_ids=mask[lines].sum(1, keepdim=True) + torch.arange(inputs.shape[1], device=mask.device),
                past_key_values=_select(cache, lines),
                use_cache=True,
            )
            yield batch, _row_sums(task, batch, output.last_hidden_state, [0] * len(batch))


def _prefill(task: _Task, prompts: list[Prompt], budget: int) -> tuple[DynamicCache, Tensor]:
    """Keys and values of the prompts without their last tokens, and the mask [prompts, longest - 1] of real tokens.

    Prompts of like length run together; then all are padded to the longest, for their responses to be sorted freely.
    """
    caches, masks = [], []
    for part in _batches({prompt: len(prompt) - 1 for prompt in prompts}, budget, task.full_speed()):
        mask = task.tensor([[1] * (len(prompt) - 1) for prompt in part], pad_left=True)
        caches.append(DynamicCache(config=task.model.config))
        masks.append(F.pad(mask, (len(prompts[0]) - 1 - mask.shape[1], 0)))
        task.model.base_model(
            input_ids=task.tensor([prompt[:-1] for prompt in part], pad_left=True),
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


def _select(cache: DynamicCache, lines: Tensor) -> DynamicCache:
    """A new cache of the given lines. Layers replace their tensors, never write into them: `cache` stays as it is."""
    selected = copy.copy(cache)
    selected.layers = [copy.copy(layer) for layer in cache.layers]
    selected.batch_select_indices(lines)
    return selected


def _row_sums(task: _Task, batch: list[int], hidden: Tensor, starts: list[int]) -> Sums:
    """fp64 [rows] from hidden states [rows, columns, width]; row n predicts its response from column starts[n] on."""
    counts = [len(task.responses[i]) for i in batch]
    states = torch.cat([hidden[n, s : s + c] for n, (s, c) in enumerate(zip(starts, counts, strict=True))])
    targets = torch.tensor([token for i in batch for token in task.responses[i]], device=hidden.device)
    logps = task.head.logps(states, targets).cpu().double()
    return cast(Sums, torch.stack([part.sum() for part in torch.split(logps, counts)]).numpy())


def _batches(
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


def _check_ids(prompts: Sequence[Ids], responses: Sequence[Ids], vocabulary: int) -> None:
    if len(prompts) != len(responses):
        raise ValueError(f"one prompt per response is needed, got {len(prompts)} prompts, {len(responses)} responses")
    for name, sequences in (("prompts", prompts), ("responses", responses)):
        for i, ids in enumerate(sequences):
            if name == "prompts" and not len(ids):
                raise ValueError(f"prompts[{i}] is empty: the first response token has nothing to be conditioned on")
            if len(ids) and not (min(ids) >= 0 and max(ids) < vocabulary):
                j = next(j for j, token in enumerate(ids) if not 0 <= token < vocabulary)
                raise ValueError(f"{name}[{i}][{j}] is {ids[j]}, outside the model's vocabulary of {vocabulary} tokens")


def _check_finite(batch: list[int], values: Sums) -> None:
    bad = [i for i, value in zip(batch, values, strict=True) if not math.isfinite(value)]
    if bad:
        raise UserError(
            f"the log-probs of {len(bad)} responses are not finite",
            where=f"responses[{min(bad)}]",
            do="check the model's weights for NaN or infinity, or score in fp32",
        )


def _can_share(model: PreTrainedModel, head: OutputHead, piece: list[int], reporter: Reporter) -> bool:
    """Whether a prompt's keys and values can be copied to its responses' rows: by the model's kind, then by trying."""
    config, accepted = model.config.get_text_config(), inspect.signature(model.base_model.forward).parameters
    kinds = set(getattr(config, "layer_types", None) or ())
    chunked = getattr(config, "attention_chunk_size", None)
    if chunked or not kinds <= {"full_attention", "sliding_attention"}:
        return False
    if not {"past_key_values", "position_ids"} <= set(accepted):
        return False
    task = _Task(model, head, [piece[: len(piece) // 2]] * 2, [piece[len(piece) // 2 :], piece[-1:]], True)
    shared, whole = (
        np.concatenate([values for _, values in run(task, [0, 1], 8 * PIECE)]) for run in (_forwards, _whole_forwards)
    )
    agree = not np.abs(shared - whole).max() > max(1e-3, 64 * torch.finfo(computed_in(model)).eps) * len(piece)
    if not agree:
        reporter.note(f"{type(model).__name__} does not continue from copied keys and values")
    return agree
