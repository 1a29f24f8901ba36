"""Rates with their standard errors and intervals, of one language and averaged over languages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from eval.clusters import PERCENT, Estimate, Part, estimate
from icr.base.errors import UserError
from icr.base.fields import Fields

RATES = ("win_rate", "lc_win_rate", "discrete_win_rate", "style_win_rate")
"""Names in a summary; the error of each ends with _se, its 95 % interval with _interval."""
MISSING_FOR = "missing for "
LANGUAGE_FALL = 0.05
"""A share of answers in the right language that is lower by more than this has fallen."""


def rate_fields(name: str, found: Estimate) -> Fields:
    """A rate in percent as a summary has it; `why` says what is missing, and is always there."""
    row: Fields = {name: found.value, f"{name}_se": found.se, f"{name}_interval": None, "why": {}}
    if found.low is not None:
        row[f"{name}_interval"] = [found.low, found.high]
    else:
        row["why"] = {key: found.why for key, value in row.items() if value is None}
    return row


def no_rate(name: str, reason: str) -> Fields:
    """The same without a rate."""
    names = (name, f"{name}_se", f"{name}_interval")
    return {**dict.fromkeys(names), "why": dict.fromkeys(names, reason)}


def language_rate(name: str, part: Part) -> Fields:
    """A rate of one language."""
    return rate_fields(name, estimate([part], PERCENT))


def average_rate(name: str, parts: Mapping[str, Part | None]) -> Fields:
    """The mean over languages; prompts are what varies, see `eval.clusters`.

    A mean over some of the languages could not be compared with one over all: it is None when one language has none.
    """
    missing = [lang for lang, part in parts.items() if part is None]
    if missing:
        return no_rate(name, missing_for(missing))
    return rate_fields(name, estimate([part for part in parts.values() if part], PERCENT))


def missing_for(langs: Sequence[str]) -> str:
    """The reason why there is no average: the languages without a value, by their codes as in the rest of a summary."""
    return f"{MISSING_FOR}{', '.join(langs)}"


def join(rows: Sequence[Fields]) -> Fields:
    """One row of several; their reasons in one `why`."""
    why = {key: reason for row in rows for key, reason in row["why"].items()}
    return {key: value for row in rows for key, value in row.items()} | {"why": why}


def explained(row: Fields) -> Fields:
    """Without an empty `why`. A value that is None without a reason would be a mistake of ours."""
    why = row.pop("why")
    unexplained = [key for key, value in row.items() if value is None and key not in why]
    assert not unexplained, unexplained
    return row | {"why": why} if why else row


def reasons(row: Fields) -> list[tuple[str, str]]:
    """(key, reason) of what a row lacks, each thing once: not also the error and interval of a rate that is missing,
    nor the interval of every rate where all lack it for one reason."""
    why: dict[str, str] = row.get("why", {})
    found = []
    for key, reason in why.items():
        whole = key.removesuffix("_se").removesuffix("_interval")
        part_of_missing = key != whole and why.get(whole) == reason
        as_win_rate = key.endswith("_interval") and whole in RATES[1:] and why.get(f"{RATES[0]}_interval") == reason
        without_error = key.endswith("_interval") and why.get(f"{whole}_se") == reason
        if not (part_of_missing or as_win_rate or without_error):
            found.append((key, reason))
    return found


def percent(values: Mapping[str, float]) -> Part:
    """The mean of shares from 0 to 1, one a prompt, in percent."""
    return Part.of({id: 100 * value for id, value in values.items()})


def win_rate(preferences: Sequence[float] | NDArray[np.float64]) -> tuple[float, float | None]:
    """Mean preference and its standard error (n − 1), in percent; the error is None for a single preference.

    Raises UserError when there is none, ValueError for one outside 0…1 or NaN.
    """
    y = np.asarray(preferences, dtype=np.float64)
    if not len(y):
        raise UserError(
            "no judged pair has a verdict, so the win rate is unknown", do="check why the judge scored no pair"
        )
    if not bool(np.all((y >= 0) & (y <= 1))):
        raise ValueError("preferences must be in 0…1")
    found = estimate([percent({str(i): float(v) for i, v in enumerate(y)})])
    return found.value, found.se
