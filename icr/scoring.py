"""Log-probabilities of whole responses, what Eq. 9 and Eq. 12 subtract from one another.

The score of y is the sum over its own tokens: the first one, predicted by the last token of the prompt, is counted, and
nothing after the last one is. The authors' scorer shifts its mask against its labels and loses the first.

How it is fast: only the positions that predict response tokens go through the output head, a few at a time; rows of
like length run together; and a prompt that several responses share runs once, its keys and values copied to their rows.
None of this changes a result by more than the rounding of the model's dtype.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from icr.base.errors import UserError
from icr.base.progress import Reporter, Silent
from icr.engines.head import OutputHead
from icr.engines.memory import work_in_batches
from icr.engines.precision import computed_in
from icr.engines.prefixes import (
    Ids,
    Prompt,
    continue_rows,
    full_speed,
    make_batches,
    may_share,
    pad_rows,
    prefill,
    sharing_pays,
)
from icr.pairs import pair_flips

PIECE = 16
"""Tokens of the first sequence on which the model is checked."""

__all__ = ["pair_flips", "sequence_logprobs"]

_SILENT = Silent()

Sums = NDArray[np.float64]


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
        if self.share is None:
            return sharing_pays(prompt, len(rows), sum(map(self.tokens, rows)))
        return self.share and (len(rows) - 1) * (len(prompt) - 1) > 0


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
    for batch in make_batches({i: task.tokens(i) - 1 for i in rows}, budget, full_speed(task.model)):
        inputs = pad_rows(task.model, [[*task.prompts[i], *task.responses[i][:-1]] for i in batch])
        hidden = task.model.base_model(input_ids=inputs, use_cache=False).last_hidden_state
        yield batch, _row_sums(task, batch, hidden, [len(task.prompts[i]) - 1 for i in batch])


def _shared_forwards(task: _Task, rows_of: Mapping[Prompt, list[int]], budget: int) -> Iterator[tuple[list[int], Sums]]:
    """A prompt without its last token once, into a cache; then rows of that token and the response without its last.

    Every column of the second pass predicts one response token.
    """
    for group in make_batches({prompt: len(prompt) - 1 for prompt in rows_of}, budget):
        cache, mask = prefill(task.model, group, budget)
        line = {i: n for n, prompt in enumerate(group) for i in rows_of[prompt]}
        lengths = {i: len(task.responses[i]) for i in line}
        for batch in make_batches(lengths, budget, full_speed(task.model), beside=mask.shape[1]):
            rows = [[task.prompts[i][-1], *task.responses[i][:-1]] for i in batch]
            hidden = continue_rows(task.model, cache, mask, [line[i] for i in batch], rows)
            yield batch, _row_sums(task, batch, hidden, [0] * len(batch))


def _row_sums(task: _Task, batch: list[int], hidden: Tensor, starts: list[int]) -> Sums:
    """fp64 [rows] from hidden states [rows, columns, width]; row n predicts its response from column starts[n] on."""
    counts = [len(task.responses[i]) for i in batch]
    states = torch.cat([hidden[n, s : s + c] for n, (s, c) in enumerate(zip(starts, counts, strict=True))])
    targets = torch.tensor([token for i in batch for token in task.responses[i]], device=hidden.device)
    logps = task.head.logps(states, targets).cpu().double()
    return cast(Sums, torch.stack([part.sum() for part in torch.split(logps, counts)]).numpy())


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
            do="check the model's weights for NaN or infinity, or set reward.precision: fp32",
        )


def _can_share(model: PreTrainedModel, head: OutputHead, piece: list[int], reporter: Reporter) -> bool:
    """Whether a prompt's keys and values can be copied to its responses' rows: by the model's kind, then by trying."""
    if not may_share(model):
        return False
    task = _Task(model, head, [piece[: len(piece) // 2]] * 2, [piece[len(piece) // 2 :], piece[-1:]], True)
    shared, whole = (
        np.concatenate([values for _, values in run(task, [0, 1], 8 * PIECE)]) for run in (_forwards, _whole_forwards)
    )
    agree = not np.abs(shared - whole).max() > max(1e-3, 64 * torch.finfo(computed_in(model)).eps) * len(piece)
    if not agree:
        reporter.note(f"{type(model).__name__} does not continue from copied keys and values")
    return agree
