"""Reading a judge's reply: a label and its probabilities, or the reason why there is none."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field

from eval.judge import LABELS, Verdict, label_preference

VERDICT = re.compile(r"\W*(?:(?:the )?(?:better )?(?:answer|verdict)(?: is)?\b)?\W*\b([AB])\b\W*", re.IGNORECASE)
"""The label alone, or in the wrappings that models put around one letter. Anything longer is not read."""
KEPT = 500
"""Characters of a reply that a verdict keeps. The cache has all of it."""


class TopToken(BaseModel):
    token: str
    logprob: float


class Token(TopToken):
    top_logprobs: list[TopToken] = []


class Logprobs(BaseModel):
    content: list[Token] | None = None


class Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class Choice(BaseModel):
    message: Message
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class Reply(BaseModel):
    """The part of a chat completion that is read and kept. Servers differ in the rest."""

    choices: Annotated[list[Choice], Field(min_length=1)]
    usage: dict[str, Any] | None = None


def read_reply(reply: Reply) -> Verdict:
    """A preference from the label's log-probs, from the label in the text when there are none, or unscored."""
    choice = reply.choices[0]
    text = (choice.message.content or "").strip()[:KEPT]
    if choice.message.refusal:
        return Verdict(None, "refused", choice.message.refusal[:KEPT])
    if choice.finish_reason == "content_filter":
        return Verdict(None, "stopped by the endpoint's content filter", text)
    if not text:
        return Verdict(None, "empty answer", f"finish reason: {choice.finish_reason}")
    match = VERDICT.fullmatch(text)
    if match is None:
        return Verdict(None, "verdict outside the labels", text)
    label = match[1].upper()
    logps = _label_logps(choice.logprobs, label)
    if logps is None:
        return Verdict(1.0 if label == LABELS[0] else 0.0, None, text)
    raw = f"{text} (log-probs A {logps[0]:.4f}, B {logps[1]:.4f})"
    return Verdict(label_preference(*logps), None, raw)


def _label_logps(logprobs: Logprobs | None, label: str) -> tuple[float, float] | None:
    """Log-probs of both labels where the reply wrote `label`; a label that is not among the top tokens has -inf."""
    token = next((t for t in (logprobs.content if logprobs else None) or [] if _bare(t.token) == label), None)
    if token is None or not token.top_logprobs:
        return None
    first, second = (
        float(np.logaddexp.reduce([t.logprob for t in token.top_logprobs if _bare(t.token) == name] or [-math.inf]))
        for name in LABELS
    )
    return None if math.isinf(first) and math.isinf(second) else (first, second)


def _bare(token: str) -> str:
    """The token's letter without blanks, brackets or markdown around it: " A" and "**A" mean the same label."""
    return re.sub(r"\W|_", "", token).upper()
