"""The local judge: a chat model's probabilities of the two labels, as its next token after the judge prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eval.judges.base import Running
from eval.judges.question import Question, Verdict
from icr.base.conversation import Conversation, wrap_text
from icr.base.errors import UserError
from icr.base.progress import Reporter, Silent
from icr.engines.stops import end_of_turn_id
from icr.engines.templates import fill_template, prompt_token_ids
from icr.scoring import sequence_logprobs

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


SHORTEST_CUT = 64
"""Characters. A text cut to less says nothing, so the question stays unscored instead."""


class LocalJudge:
    """Judges with a transformers causal LM under its own chat template. Deterministic."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, reporter: Reporter | None = None
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._labels: dict[tuple[tuple[str, ...], bool], Labels] = {}
        self._context = context_length(model, tokenizer)
        self._reporter = _Notes(reporter or Silent())

    def ask(
        self, questions: Sequence[Question], done: Callable[[int], None], running: Running | None = None
    ) -> list[Verdict]:
        """One batch of forward passes: the share of a label is its probability among the question's labels.

        No explanation is asked for: a label's probability is that of it being the whole answer. Questions that no cut
        makes fit are unscored.
        """
        fitted = [self._fit(q) for q in questions]
        rows = [(n, label) for n, (ids, _) in enumerate(fitted) if ids for label in self._of(questions[n]).ids]
        logps = sequence_logprobs(
            self._model,
            [fitted[n][0] or [] for n, _ in rows],
            [label for _, label in rows],
            reporter=self._reporter,
        )
        of_label = iter(logps)
        verdicts = []
        for question, (ids, limit) in zip(questions, fitted, strict=True):
            if ids is None:
                reason, raw = "longer than the judge's context", f"context: {self._context} tokens"
                verdicts.append(Verdict(None, reason, raw))
            else:
                own = np.array([next(of_label) for _ in question.labels])
                verdicts.append(_verdict(self._of(question).shown, own, limit))
        for number, verdict in enumerate(verdicts):
            if running is not None:
                self._reporter.status(running(number, verdict))
        done(len(verdicts))
        return verdicts

    def _of(self, question: Question) -> Labels:
        key = (question.labels, question.names_labels)
        if key not in self._labels:
            self._labels[key] = choose_labels(self._tokenizer, question.labels, renamed=question.names_labels)
        return self._labels[key]

    def _fit(self, question: Question) -> tuple[list[int] | None, int | None]:
        """The prompt's token ids, and the characters to which its texts were cut: the largest power of two that fits.

        The answers are cut to the same length, so that neither order nor side gains by it.
        """
        ids = self._ids(question, None)
        room = self._context - max(map(len, self._of(question).ids))
        if len(ids) <= room:
            return ids, None
        limit = 1 << (max(question.longest, 1).bit_length() - 1)
        while limit >= SHORTEST_CUT:
            ids = self._ids(question, limit)
            if len(ids) <= room:
                return ids, limit
            limit //= 2
        return None, None

    def _ids(self, question: Question, limit: int | None) -> list[int]:
        asked = question.messages(limit, self._of(question).shown, explained=False)
        conversation: Conversation = [{"role": role, "content": content} for role, content in asked]
        return prompt_token_ids(self._tokenizer, conversation)


class _Notes(Silent):
    """Passes on the scorer's notes; its progress is of labels, not of questions."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def note(self, text: str) -> None:
        self._reporter.note(text)

    def status(self, text: str) -> None:
        self._reporter.status(text)


def _verdict(labels: tuple[str, ...], logps: NDArray[np.float64], limit: int | None) -> Verdict:
    """Shares from the log-probs of the labels, in nats; some of them may be -inf."""
    shares = np.exp(logps - np.logaddexp.reduce(logps))
    raw = "log-probs " + ", ".join(f"{label} {logp:.4f}" for label, logp in zip(labels, logps, strict=True))
    if limit is not None:
        raw += f"; answers cut to {limit} characters"
    return Verdict(tuple(map(float, shares)), None, raw, limit is not None)


@dataclass(frozen=True)
class Labels:
    """How a tokenizer writes a question's labels."""

    shown: tuple[str, ...]
    """As the prompt names them."""
    ids: tuple[tuple[int, ...], ...]
    """As the chat template's opening of the answer goes on with them."""


OTHER_NAMES: dict[tuple[str, ...], tuple[str, ...]] = {("A", "B"): ("1", "2")}
"""What a pair of labels is called instead where its tokens are unusable."""


def choose_labels(tokenizer: PreTrainedTokenizerBase, labels: tuple[str, ...], *, renamed: bool = True) -> Labels:
    """The labels as the tokens that follow the chat template's opening of the answer.

    Args:
        renamed: they may be called by OTHER_NAMES.

    A template without a final newline may need a blank in front of them. Where one label begins another ("1", "10"),
    each ends with the template's end of turn: a label is the whole answer.

    Raises:
        UserError: the tokenizer merges the labels into the template, or writes two of them in the same way.
    """
    opened = fill_template(tokenizer, wrap_text("?"), opened=True)
    before = _token_ids(tokenizer, opened)
    for names in (labels, OTHER_NAMES.get(labels, labels) if renamed else labels):
        for blank in ("", " "):
            whole = [_token_ids(tokenizer, opened + blank + name) for name in names]
            if not all(ids[: len(before)] == before and len(ids) > len(before) for ids in whole):
                continue
            own = [tuple(ids[len(before) :]) for ids in whole]
            if any(a != b and b[: len(a)] == a for a in own for b in own):
                end = end_of_turn_id(tokenizer)
                own = [(*ids, end) for ids in own] if end is not None else own
            if len(set(own)) == len(own):
                return Labels(names, tuple(own))
    raise UserError(
        f"this tokenizer cannot tell the labels {', '.join(labels)} apart",
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
