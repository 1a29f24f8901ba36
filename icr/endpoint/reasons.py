"""Why a question stayed without an answer, as it is counted, and which reasons may pass."""

from __future__ import annotations

import re

IN_TIME = "no answer in time"
UNREADABLE = "no readable answer"
LOST = "no answer: connection lost"
STATUS = "no answer: HTTP "
OF_STATUS = re.compile(re.escape(STATUS) + r"(\d{3})")


def may_pass(reason: str) -> bool:
    """Whether a question with this reason may be answered at another time."""
    status = OF_STATUS.fullmatch(reason)
    return is_passing(int(status[1])) if status else reason in (IN_TIME, UNREADABLE, LOST)


def is_passing(status: int) -> bool:
    """Whether an HTTP status is of a fault that may pass."""
    return status in (408, 409, 425, 429) or status >= 500
