"""Why a question stays without an answer, and which of these reasons another try may do away with."""

from __future__ import annotations

import re

import openai

from icr.endpoint.reply import BrokenAnswer

IN_TIME = "no answer in time"
UNREADABLE = "no readable answer"
LOST = "no answer: connection lost"
STATUS = "no answer: HTTP "
OF_STATUS = re.compile(re.escape(STATUS) + r"(\d{3})")


def name_failure(error: Exception) -> str:
    """The reason of a question that stayed without an answer, as it is counted."""
    if isinstance(error, openai.APIStatusError):
        return f"{STATUS}{error.status_code}"
    if isinstance(error, openai.APITimeoutError | TimeoutError):
        return IN_TIME
    return UNREADABLE if isinstance(error, BrokenAnswer) else LOST


def may_pass(reason: str) -> bool:
    """Whether a question with this reason may be answered at another time."""
    status = OF_STATUS.fullmatch(reason)
    return is_passing(int(status[1])) if status else reason in (IN_TIME, UNREADABLE, LOST)


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed when it is sent again."""
    if isinstance(error, openai.RateLimitError) and error.code == "insufficient_quota":
        return False
    if isinstance(error, openai.APIStatusError):
        return is_passing(error.status_code)
    return isinstance(error, openai.APIConnectionError | BrokenAnswer | TimeoutError)


def is_passing(status: int) -> bool:
    """Whether an HTTP status is of a fault that may pass."""
    return status in (408, 409, 425, 429) or status >= 500
