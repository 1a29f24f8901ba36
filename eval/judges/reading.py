"""Reading a judge's reply: a label and its probabilities, or the reason why there is none."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from functools import cache

from eval.judges.labels import find_grade, find_label, find_marked, folding, strip_thinking
from eval.judges.question import Question, Verdict
from icr.base.errors import UserError
from icr.endpoint.reply import Choice, Reply, Token

EXPLANATION, VERDICT = "explanation", "verdict"
"""Fields of an answer in JSON."""
KEPT = 500
"""Characters of a reply that a verdict keeps. The cache has all of it."""
THOUGHT_ONLY = "all tokens went into reasoning"
CUT_OFF = "verdict cut off"
EMPTY = "empty answer"
OUTSIDE = "verdict outside the labels"
TOO_LITTLE_ROOM = frozenset({THOUGHT_ONLY, CUT_OFF})
UNREADABLE = frozenset({*TOO_LITTLE_ROOM, EMPTY, OUTSIDE})
"""Reasons of answers that came and say nothing. The same question may be answered otherwise another time."""


def read_reply(reply: Reply, question: Question, preference: str = "auto") -> Verdict:
    """Shares from the label's log-probs, all for the label in the text where there are none, or unscored.

    The log-probs of the first token count, whatever text follows it.

    Args:
        preference: `auto`; `logprobs`: only from log-probs, UserError without; `label`: only from the text.
    """
    choice = reply.choices[0]
    if choice.message.refusal:
        return Verdict(None, "refused", choice.message.refusal[:KEPT])
    text, thought = strip_thinking((choice.message.content or "").strip())
    if choice.finish_reason == "content_filter":
        return Verdict(None, "stopped by the endpoint's content filter", text[:KEPT])
    if not text:
        return _without_text(choice, thought)
    if question.explained and (label := _structured(text, question.labels)) is not None:
        return Verdict.of_label(question, label, text[-KEPT:])
    if question.explained:
        return _read_explained(text, question, cut=choice.finish_reason == "length")
    thought = thought or bool(choice.message.reasoning)
    tokens = (choice.logprobs.content if choice.logprobs and preference != "label" else None) or []
    label = find_label(text, question.labels, cut=choice.finish_reason == "length")
    logps = _label_logps(tokens, label, question.labels, thought=thought)
    if logps is not None:
        highest = max(logps)  # numpy takes ten times as long for two or three numbers
        weights = [math.exp(logp - highest) for logp in logps]
        shares = tuple(weight / sum(weights) for weight in weights)
        named = ", ".join(f"{name} {logp:.4f}" for name, logp in zip(question.labels, logps, strict=True))
        return Verdict(shares, None, f"{text[:KEPT]} (log-probs {named})")
    if label is None:
        return Verdict(None, CUT_OFF if thought and choice.finish_reason == "length" else OUTSIDE, text[-KEPT:])
    if preference == "logprobs":
        raise UserError(
            "the judge's endpoint returns no log-probabilities of its labels",
            where="judge.preference: logprobs",
            do="set judge.preference to auto or label, or use an endpoint that returns top_logprobs",
        )
    return Verdict.of_label(question, label, text[-KEPT:])


def _structured(text: str, labels: Sequence[str]) -> str | None:
    """The label of an answer in JSON, as `judge.structured` has it; None for any other answer."""
    if not text.startswith("{"):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    said = found.get(VERDICT)
    return said if said in labels else None


def _without_text(choice: Choice, thought: bool) -> Verdict:
    """Unscored, with what there is in the place of an answer."""
    reasoning = choice.message.reasoning or (choice.message.content if thought else "") or ""
    detail = f"finish reason: {choice.finish_reason}"
    if reasoning:
        cut = choice.finish_reason in ("length", None)
        return Verdict(None, THOUGHT_ONLY if cut else EMPTY, f"{detail}; reasoning: …{reasoning[-KEPT:]}")
    return Verdict(None, EMPTY, detail)


def _read_explained(text: str, question: Question, *, cut: bool) -> Verdict:
    """The verdict that an explanation ends with."""
    if question.graded:
        values = sorted(map(float, question.labels))
        grade = find_grade(text, values[0], values[-1])
        if grade is not None:
            return Verdict(_split(grade, question.labels), None, text[-KEPT:])
    else:
        label = find_marked(text, question.labels) or find_label(text, question.labels, cut=cut)
        if label is not None:
            return Verdict.of_label(question, label, text[-KEPT:])
    return Verdict(None, CUT_OFF if cut else OUTSIDE, text[-KEPT:])


def _split(grade: float, labels: Sequence[str]) -> tuple[float, ...]:
    """Shares whose mean is the grade: 7.5 is half a 7 and half an 8."""
    return tuple(max(0.0, 1.0 - abs(float(label) - grade)) for label in labels)


def _label_logps(
    tokens: Sequence[Token], label: str | None, labels: tuple[str, ...], *, thought: bool
) -> tuple[float, ...] | None:
    """Log-probs of all labels where the reply wrote one; a label that is not among the top tokens has -inf.

    Args:
        label: the one in the text, where one was read.
        thought: the tokens may begin with reasoning, so that only the last of the label's tokens is the verdict.
    """
    fold = folding(labels)
    names = [fold(name) for name in labels]
    if thought:
        token = next((t for t in reversed(tokens) if label is not None and _bare(t.token, fold) == fold(label)), None)
    else:
        first = next((t for t in tokens if _bare(t.token, fold)), None)
        written = [fold(label)] if label is not None else []
        token = first if first is not None and _bare(first.token, fold) in names else None
        if token is None or (written and _bare(token.token, fold) not in written):
            token = next((t for t in tokens if _bare(t.token, fold) in written), None)
    if token is None or not token.top_logprobs:
        return None
    top = [(_bare(t.token, fold), t.logprob) for t in token.top_logprobs]
    known = [(bare, logp) for bare, logp in top if logp is not None and logp <= 1e-3]
    logps = tuple(_add([logp for bare, logp in known if bare == name]) for name in names)
    return None if all(map(math.isinf, logps)) else logps


def _add(logps: Sequence[float]) -> float:
    """The log-prob of any of these; -inf of none."""
    return (
        math.log(math.fsum(map(math.exp, logps)))
        if any(logp > -700 for logp in logps)
        else max(logps, default=-math.inf)
    )


@cache
def _bare(token: str, fold: Callable[[str], str]) -> str:
    """The token's letter without blanks, brackets or markdown around it: " A" and "**A" mean the same label."""
    return fold(re.sub(r"\W|_", "", token))
