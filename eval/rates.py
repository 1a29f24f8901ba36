"""Rates with their standard errors, of one language and averaged over languages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from icr.base.errors import UserError
from icr.base.fields import Fields

RATES = ("win_rate", "win_rate_se", "lc_win_rate", "lc_win_rate_se")
DISCRETE = ("discrete_win_rate", "discrete_win_rate_se")


def macro_average(languages: Mapping[str, Fields], names: Sequence[str] = (*RATES, *DISCRETE, "mean_length")) -> Fields:
    """Unweighted means over the languages; of independent languages, so the error is sqrt(sum of se²) / k.

    A mean over some of the languages could not be compared with one over all: it is None when one language has none.
    """
    average: Fields = {"why": {}}
    for name in names:
        values = [row[name] for row in languages.values()]
        missing = [lang for lang, row in languages.items() if row[name] is None]
        if missing:
            average[name] = None
            average["why"][name] = f"missing for {', '.join(missing)}"
        elif name.endswith("_se"):
            average[name] = math.sqrt(sum(value**2 for value in values)) / len(values)
        else:
            average[name] = sum(values) / len(values)
    return average


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
    return float(100 * y.mean()), float(100 * y.std(ddof=1) / np.sqrt(len(y))) if len(y) > 1 else None
