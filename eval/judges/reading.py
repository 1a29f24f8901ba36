"""Reading a judge's reply: a label and its probabilities, or the reason why there is none."""

from __future__ import annotations

import math
import re
from functools import cache

import numpy as np

from eval.judges.question import Question, Verdict
from icr.base.errors import UserError
from icr.endpoint.reply import Logprobs, Reply

WRAPPED = r"\W*(?:(?:the )?(?:better )?(?:answer|verdict)(?: is)?\b)?\W*\b({names})\b\W*"
"""The label alone, or in the wrappings that models put around one. Anything longer is not read."""
BRACKETS = re.compile(r"\[\[([^\[\]]{1,20})\]\]")
KEPT = 500
"""Characters of a reply that a verdict keeps. The cache has all of it."""


def read_reply(reply: Reply, question: Question, preference: str = "auto") -> Verdict:
    """Shares from the label's log-probs, all for the label in the text where there are none, or unscored.

    Args:
        preference: `auto`; `logprobs`: only from log-probs, UserError without; `label`: only from the text.
    """
    choice = reply.choices[0]
    text = (choice.message.content or "").strip()
    if choice.message.refusal:
        return Verdict(None, "refused", choice.message.refusal[:KEPT])
    if choice.finish_reason == "content_filter":
        return Verdict(None, "stopped by the endpoint's content filter", text[:KEPT])
    if not text:
        return Verdict(None, "empty answer", f"finish reason: {choice.finish_reason}")
    label = find_label(text, question)
    if label is None:
        cut = question.explained and choice.finish_reason == "length"
        return Verdict(None, "verdict cut off" if cut else "verdict outside the labels", text[-KEPT:])
    if question.explained or preference == "label":
        return Verdict.of_label(question, label, text[-KEPT:])
    logps = _label_logps(choice.logprobs, label, question.labels)
    if logps is None:
        if preference == "logprobs":
            raise UserError(
                "the judge's endpoint returns no log-probabilities of its labels",
                where="judge.preference: logprobs",
                do="set judge.preference to auto or label, or use an endpoint that returns top_logprobs",
            )
        return Verdict.of_label(question, label, text[-KEPT:])
    shares = np.exp(np.array(logps) - np.logaddexp.reduce(logps))
    named = ", ".join(f"{name} {logp:.4f}" for name, logp in zip(question.labels, logps, strict=True))
    return Verdict(tuple(map(float, shares)), None, f"{text[:KEPT]} (log-probs {named})")


def find_label(text: str, question: Question) -> str | None:
    """The label that an answer gives: in double brackets after an explanation, else alone or in few words around it."""
    if question.explained:
        found = [m.strip() for m in BRACKETS.findall(text)]
        return next((label for mark in reversed(found) for label in question.labels if mark == label), None)
    names = "|".join(map(re.escape, sorted(question.labels, key=len, reverse=True)))
    match = re.fullmatch(WRAPPED.format(names=names), text, re.IGNORECASE)
    return next((label for label in question.labels if match and label.lower() == match[1].lower()), None)


def _label_logps(logprobs: Logprobs | None, label: str, labels: tuple[str, ...]) -> tuple[float, ...] | None:
    """Log-probs of all labels where the reply wrote `label`; a label that is not among the top tokens has -inf."""
    names = [name.upper() for name in labels]
    token = next((t for t in (logprobs.content if logprobs else None) or [] if _bare(t.token) == label.upper()), None)
    if token is None or not token.top_logprobs:
        return None
    logps = tuple(
        float(np.logaddexp.reduce([t.logprob for t in token.top_logprobs if _bare(t.token) == name] or [-math.inf]))
        for name in names
    )
    return None if all(map(math.isinf, logps)) else logps


@cache
def _bare(token: str) -> str:
    """The token's letter without blanks, brackets or markdown around it: " A" and "**A" mean the same label."""
    return re.sub(r"\W|_", "", token).upper()
