"""The one estimator of all benchmarks: means over languages, with errors that know what was drawn.

A prompt and its translations are one draw: what is hard in English is hard in Spanish. So prompts are what varies, and
languages are not. With m_l the value of language l of L, and u_li how far prompt i moves it (Σ_i u_li² = se_l²):

    value = mean_l m_l        se² = Σ_i (mean_l u_li)²        interval = value ± t_df · se

Where every prompt is in every language, this is the t interval of the prompts' means over their languages. A value with
bounds, such as a rate, has Wilson's interval with the same t_df, which stays within them and holds for high rates, too.
`benchmarks/coverage.py` measures how often they hold the true value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Floats = NDArray[np.float64]
CONFIDENCE = 0.95
FEWEST = 6
"""Prompts of a language. With fewer the interval would say more about the method than about the model."""
SINGLE = "a single item has no standard error"
EQUAL = "all values are equal"


@dataclass(frozen=True)
class Part:
    """One language's value."""

    value: float
    moves: Mapping[str, float]
    """Prompt id → how far it moves the value, in the value's unit; the sum of squares is the squared standard error."""

    @classmethod
    def of(cls, values: Mapping[str, float]) -> Part:
        """The mean of one value a prompt, of which there is at least one; u_i = (x_i − mean) / √(n(n − 1))."""
        x = np.array(list(values.values()))
        n = len(x)
        spread = x - x.mean() if np.ptp(x) > 0 else np.zeros(n)
        moves = spread / np.sqrt(n * max(n - 1, 1))
        return cls(float(x.mean()), dict(zip(values, moves.tolist(), strict=True)))


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error and 95 % interval. What is None is explained by `why`."""

    value: float
    se: float | None
    low: float | None
    high: float | None
    n: int
    """Different prompts."""
    why: str | None = None

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 0."""
        return excludes(0.0, self.low, self.high)


def excludes(value: float, low: float | None, high: float | None) -> bool:
    """Whether there is an interval, and it does not hold the value."""
    return low is not None and high is not None and (low > value or high < value)


Bounds = tuple[float, float]
"""The least and the most that a value can be."""
PERCENT: Bounds = (0.0, 100.0)


def estimate(parts: Sequence[Part], bounds: Bounds | None = None, most_df: float = math.inf) -> Estimate:
    """The mean over languages, which all have a value (module docstring).

    Args:
        bounds: of the value; None for differences.
        most_df: degrees of freedom that the error has at most, where it comes from fewer prompts than move the value.
    """
    value = sum(part.value for part in parts) / len(parts)
    items = dict.fromkeys(id for part in parts for id in part.moves)
    smallest = min(len(part.moves) for part in parts)
    if smallest < 2:
        return Estimate(value, None, None, None, len(items), SINGLE)
    moves = np.array([[part.moves.get(id, 0.0) for id in items] for part in parts])
    se = float(np.sqrt(np.sum(moves.mean(axis=0) ** 2)))
    if smallest < FEWEST:
        return Estimate(value, se, None, None, len(items), few(smallest))
    if se == 0 and (bounds is None or value not in bounds):
        return Estimate(value, se, None, None, len(items), EQUAL)
    present = np.array([[id in part.moves for id in items] for part in parts], dtype=np.float64)
    df = min(most_df, degrees(moves, present) if se > 0 else smallest - 1)
    t = float(stdtrit(df, (1 + CONFIDENCE) / 2))
    low, high = (value - t * se, value + t * se) if bounds is None else wilson(value, se, t, len(items), bounds)
    return Estimate(value, se, low, high, len(items))


def wilson(value: float, se: float, t: float, n: int, bounds: Bounds) -> tuple[float, float]:
    """Wilson's interval of a value with bounds. With p its place between them, from 0 to 1, and s its error there:

        n* = p(1 − p) / s², the independent yes-or-no answers that would have this error; n where s is 0
        (p + t²/2n* ± t·√(p(1 − p)/n* + t²/4n*²)) / (1 + t²/n*)

    Args:
        t: the quantile, in standard errors.
        n: prompts.
    """
    lowest, highest = bounds
    width = highest - lowest
    p, s = (value - lowest) / width, se / width
    count = p * (1 - p) / s**2 if s > 0 else float(n)
    centre, reach = p + t**2 / (2 * count), t * math.sqrt(p * (1 - p) / count + t**2 / (4 * count**2))
    low, high = ((centre + sign * reach) / (1 + t**2 / count) for sign in (-1, 1))
    return lowest + width * max(0.0, low), lowest + width * min(1.0, high)


def few(n: int) -> str:
    """Why there is no interval."""
    return f"{too_few(n, 'prompt')}; an interval needs {FEWEST}"


def too_few(n: int, unit: str) -> str:
    """`1 prompt is too few`, `2 prompts are too few`."""
    return f"{n} {unit}{' is' if n == 1 else 's are'} too few"


def degrees(moves: Floats, present: Floats) -> float:
    """Degrees of freedom of se² (Satterthwaite), as if the languages' values were independent.

    N − 1 where all languages have the same N prompts, Welch's where they have none in common. With
    w_l = se_l²/(n_l − 1), n_lm the prompts that l and m share, and tr_lm = n_lm·(1 − 1/n_l − 1/n_m) + n_lm²/(n_l·n_m):

        df = (Σ_l se_l²)² / Σ_lm w_l·w_m·tr_lm

    Args:
        moves, present: shape (languages, prompts); `present` is 1 where a language has the prompt.
    """
    shared = present @ present.T
    n = np.diag(shared)
    trace = shared * (1 - 1 / n[:, None] - 1 / n[None, :]) + shared**2 / (n[:, None] * n[None, :])
    variance = np.sum(moves**2, axis=1)
    w = variance / (n - 1)
    return float(variance.sum() ** 2 / (w @ trace @ w))
