"""What an endpoint does not take, read from its refusal, and what is sent instead.

Every provider has its own status and words for it: 400, 403 or 422; "Unsupported parameter", "not allowed to request",
"Extra inputs are not permitted", "is deprecated", "is not enabled". `tests/endpoint/test_refusals.py` has a row for
each that is known.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import openai

REFUSING = (400, 403, 404, 405, 415, 422, 501)
"""Statuses of a refusal that may be about a parameter."""
NAMES = {
    "logprobs": ("logprobs", "top_logprobs"),
    "top_logprobs": ("logprobs", "top_logprobs"),
    "log probabilities": ("logprobs", "top_logprobs"),
    "max_completion_tokens": ("max_completion_tokens",),
    "max_tokens": ("max_tokens",),
    "temperature": ("temperature",),
    "response_format": ("response_format",),
    "response format": ("response_format",),
    "json_schema": ("response_format",),
    "json schema": ("response_format",),
    "structured output": ("response_format",),
    "structured outputs": ("response_format",),
    "guided decoding": ("response_format",),
}
"""What a refusal may name → the parameters that are sent without it. The longer of two names comes first."""
INSTEAD = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
REFUSED = re.compile(
    r"support|unknown|unrecognized|unexpected|not permitted|not allowed|extra_forbidden|value_error\.extra|deprecated|"
    r"not enabled|not available|unavailable|may only|only the default|only .{0,20}\b1\b|must be|not valid|invalid|"
    r"cannot be (?:used|set)|removed|not compatible|incompatible"
)
TOO_LONG = re.compile(r"context length|context window|too large|too long|reduce the length|maximum context")
"""Of a question that does not fit; such messages name max_tokens as well."""
SPOKEN = ("message", "msg", "detail", "error", "param", "loc", "type", "code", "errors", "reason", "title")
"""Keys of an error's JSON that are the endpoint's words. Others may hold what was sent, and so a judged text."""


@dataclass
class Dialect:
    """How this endpoint is asked, as far as its refusals have told."""

    without: frozenset[str] = frozenset()
    """Parameters that are left out."""
    renamed: tuple[tuple[str, str], ...] = ()
    """(our name, the endpoint's name) of parameters."""

    def spell(self, params: Mapping[str, object]) -> dict[str, object]:
        """The parameters as this endpoint takes them."""
        names = dict(self.renamed)
        return {names.get(name, name): value for name, value in params.items() if name not in self.without}

    def learn(self, error: openai.APIStatusError, sent: Mapping[str, object]) -> str | None:
        """Take in a refusal.

        Args:
            sent: the parameters that were refused, as they were spelled.

        Returns:
            What is different from now on, for the user; None where the refusal is not about one of our parameters.
        """
        name = find_refused(error, sent)
        if name is None:
            return None
        ours = {theirs: own for own, theirs in self.renamed}
        other = INSTEAD.get(name)
        if other and name not in ours:
            self.renamed = (*self.renamed, (name, other))
            return f"the endpoint takes {other} in place of {name}"
        dropped = [ours.get(dropped, dropped) for dropped in NAMES[name] if dropped in sent]
        self.without |= {*dropped}
        return f"the endpoint does not support {name}: requests are sent without it"


def find_refused(
    error: openai.APIStatusError, sent: Mapping[str, object], names: Mapping[str, tuple[str, ...]] = NAMES
) -> str | None:
    """The name, of `names`, of what an endpoint says it does not take; None where it says something else."""
    if error.status_code not in REFUSING:
        return None
    said = " ".join(_words(_body(error))).lower()
    if TOO_LONG.search(said) or not REFUSED.search(said):
        return None
    # "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead." names two; one of them was sent
    return next((name for name, parts in names.items() if parts[0] in sent and _names(said, name)), None)


def _names(said: str, name: str) -> bool:
    return re.search(rf"(?<![a-z_]){re.escape(name.lower())}(?![a-z_])", said) is not None


def _body(error: openai.APIStatusError) -> object:
    try:
        found: object = json.loads(error.response.content)
    except (ValueError, RecursionError):
        found = error.response.text
    return found


def _words(said: object) -> Iterator[str]:
    """The texts of an error's JSON that are the endpoint's own."""
    if isinstance(said, str):
        yield said
    elif isinstance(said, list):
        for part in said:
            yield from _words(part)
    elif isinstance(said, dict):
        for key in SPOKEN:
            yield from _words(said.get(key))
