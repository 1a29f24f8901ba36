"""One rule for ids, in prompts, answers and questions alike: the ids 1, 1.0, "1", "1.0" and " 1 " are one."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping

from icr.base.errors import UserError

ID_NAMES = ("instruction_id", "id", "prompt_id", "question_id")
"""A row's fields; the first that has a value is its id."""
WHOLE = re.compile(r"(-?[0-9]+)\.0+")


def read_id(row: Mapping[str, object], where: str) -> str | None:
    """A row's id; None if it has none.

    Raises:
        UserError: its id is neither a number nor a text.
    """
    return next((id for name in ID_NAMES if (id := normalise_id(row.get(name), where)) is not None), None)


def normalise_id(value: object, where: str) -> str | None:
    """An id as text: a whole number without its point, without blanks around it, accents composed. 01 stays 01.

    None is what counts as no id: null, "", blanks, and NaN, which pandas writes for a missing number.

    Raises:
        UserError: true, false, infinity, a list or an object.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value in (math.inf, -math.inf):
        raise UserError(f"the id {value!r} is not a number or a text", where=where, do="write it as a number or a text")
    text = unicodedata.normalize("NFC", f"{value:.1f}" if isinstance(value, float) and value % 1 == 0 else str(value))
    whole = WHOLE.fullmatch(text.strip())
    return whole[1] if whole else text.strip() or None
