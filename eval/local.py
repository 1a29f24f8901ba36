"""The local judge: a chat model's probabilities of the two labels, as its next token after the judge prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eval.judge import LABELS, Comparison, Verdict, judge_prompt, label_preference
from icr.errors import UserError
from icr.models import load_model, load_tokenizer, locate, materialise, prompt_token_ids
from icr.scoring import sequence_logprobs

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CUT = " […]"
"""Ends an answer that was cut to fit the judge's context."""
SHORTEST_CUT = 64
"""Characters. An answer cut to less says nothing, so the comparison stays unscored instead."""


class LocalJudge:
    """Judges with a transformers causal LM under its own chat template. Deterministic."""

    shard_size = 32

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        self.name = f"local: {name}"
        self._model, self._tokenizer = model, tokenizer
        self._labels, self._label_ids = choose_labels(tokenizer)
        self._context = context_length(model, tokenizer)

    @classmethod
    def load(cls, spec: str, name: str = "") -> LocalJudge:
        """Load a hub id, folder or .gguf file: bf16 on a GPU, fp32 without. Raises UserError when that fails."""
        import torch

        folder = materialise(locate(spec, "judge.model"))
        dtype, device = (torch.bfloat16, "cuda") if torch.cuda.is_available() else (torch.float32, "cpu")
        return cls(load_model(folder, dtype, device), load_tokenizer(folder), name or spec)

    def compare(self, comparisons: Sequence[Comparison], done: Callable[[int], None]) -> list[Verdict]:
        """One batch of forward passes. Comparisons that no cut makes fit are unscored."""
        fitted = [self._fit(c) for c in comparisons]
        prompts = [ids for ids, _ in fitted if ids is not None]
        twice = [ids for ids in prompts for _ in self._label_ids]
        logps = sequence_logprobs(self._model, twice, [[label] for label in self._label_ids] * len(prompts))
        of_prompt = iter(logps.reshape(-1, 2))
        verdicts = [
            self._verdict(next(of_prompt), limit)
            if ids is not None
            else Verdict(None, "longer than the judge's context", f"context: {self._context} tokens")
            for ids, limit in fitted
        ]
        done(len(verdicts))
        return verdicts

    def _verdict(self, logps: NDArray[np.float64], limit: int | None) -> Verdict:
        first, second = self._labels
        first_logp, second_logp = map(float, logps)
        raw = f"log-probs {first.strip()} {first_logp:.4f}, {second.strip()} {second_logp:.4f}"
        if limit is not None:
            raw += f"; answers cut to {limit} characters"
        return Verdict(label_preference(first_logp, second_logp), None, raw, limit is not None)

    def _fit(self, comparison: Comparison) -> tuple[list[int] | None, int | None]:
        """The prompt's token ids, and the characters to which its answers were cut: the largest power of two that fits.

        Both answers are cut to the same length, so that neither order nor side gains by it.
        """
        ids = self._ids(comparison)
        if len(ids) < self._context:
            return ids, None
        limit = 1 << (max(len(comparison.first), len(comparison.second), 1).bit_length() - 1)
        while limit >= SHORTEST_CUT:
            ids = self._ids(
                replace(comparison, first=_cut(comparison.first, limit), second=_cut(comparison.second, limit))
            )
            if len(ids) < self._context:
                return ids, limit
            limit //= 2
        return None, None

    def _ids(self, comparison: Comparison) -> list[int]:
        first, second = (label.strip() for label in self._labels)
        return prompt_token_ids(self._tokenizer, judge_prompt(comparison, (first, second)))


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + CUT


def choose_labels(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[str, str], tuple[int, int]]:
    """Two labels that are one token each, and different ones, right after the chat template's opening of the answer.

    Returns:
        The labels (with the blank in front that a template without a final newline may need) and their token ids.

    Raises:
        UserError: the tokenizer has no such pair.
    """
    opened: str = tokenizer.apply_chat_template(  # type: ignore[assignment]
        [{"role": "user", "content": "?"}], tokenize=False, add_generation_prompt=True
    )
    before = _token_ids(tokenizer, opened)
    for blank in ("", " "):
        for pair in (LABELS, ("1", "2")):
            first, second = (blank + label for label in pair)
            whole = [_token_ids(tokenizer, opened + label) for label in (first, second)]
            single = all(ids[:-1] == before and len(ids) == len(before) + 1 for ids in whole)
            if single and whole[0] != whole[1]:
                return (first, second), (whole[0][-1], whole[1][-1])
    raise UserError(
        "this tokenizer has no pair of one-token labels (tried A/B and 1/2)",
        where="judge.model",
        do="judge with another model, or through an endpoint (judge.kind: openai)",
    )


def _token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def context_length(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens that fit in one sequence: the smaller of what the model's config and its tokenizer say."""
    of_model = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return min(of_model or tokenizer.model_max_length, tokenizer.model_max_length)
