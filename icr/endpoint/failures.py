"""Which errors of the `openai` package mean what."""

from __future__ import annotations

import openai

from icr.endpoint.reasons import IN_TIME, LOST, STATUS, UNREADABLE, is_passing
from icr.endpoint.reply import BrokenAnswer


def name_failure(error: Exception) -> str:
    """The reason of a question that stayed without an answer, as it is counted."""
    if isinstance(error, openai.APIStatusError):
        return f"{STATUS}{error.status_code}"
    if isinstance(error, openai.APITimeoutError | TimeoutError):
        return IN_TIME
    return UNREADABLE if isinstance(error, BrokenAnswer) else LOST


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed when it is sent again."""
    if isinstance(error, openai.RateLimitError) and error.code == "insufficient_quota":
        return False
    if isinstance(error, openai.APIStatusError):
        return is_passing(error.status_code)
    return isinstance(error, openai.APIConnectionError | BrokenAnswer | TimeoutError)
