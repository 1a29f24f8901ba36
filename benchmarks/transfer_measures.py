"""What the transfer benchmark computes: pairs of like length, the AUC within prompts, and bootstrap intervals."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 10_000
NEAR = 0.1
"""Lengths that differ by at most this share of the longer one pass for the same."""
Floats = NDArray[np.float64]


class Estimate(NamedTuple):
    """A figure with its 95 % percentile interval; NaN where there is nothing to estimate."""

    value: float
    low: float
    high: float

    def text(self, digits: int) -> str:
        """With its interval; a dash where there is none."""
        values = [f"{value:.{digits}f}" for value in self]
        return "–" if self.value != self.value else f"{values[0]} [{values[1]}, {values[2]}]"

    def __str__(self) -> str:
        return self.text(2)


def closest_pairs(labels: Sequence[bool], lengths: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """At most `limit` disjoint pairs (with the property, without) of one prompt's responses, nearest in length first.

    Pairs of like length keep the preference from being one for long or short responses.
    """
    of = range(len(labels))
    every = [(abs(lengths[i] - lengths[j]), i, j) for i in of if labels[i] for j in of if not labels[j]]
    pairs: list[tuple[int, int]] = []
    for _, i, j in sorted(every):
        if len(pairs) < limit and not any(i == a or j == b for a, b in pairs):
            pairs.append((i, j))
    return pairs


def concordance(scores: ArrayLike, labels: ArrayLike, lengths: ArrayLike | None = None) -> tuple[float, int]:
    """(pairs ranked right, pairs) over all pairs of a response with the property and one without, of one prompt.

    Args:
        scores: [n], higher is better; a tie counts half.
        labels: [n], whether the response has the property.
        lengths: [n]; where given, only pairs whose lengths differ by at most a tenth of the longer one count.
    """
    values, has = np.asarray(scores, np.float64), np.asarray(labels, bool)
    gaps = values[has][:, None] - values[~has][None, :]
    if lengths is not None:
        size = np.asarray(lengths, np.float64)
        long, short = np.maximum.outer(size[has], size[~has]), np.minimum.outer(size[has], size[~has])
        gaps = gaps[short >= (1 - NEAR) * long]
    return float((gaps > 0).sum() + 0.5 * (gaps == 0).sum()), gaps.size


Pairs = dict[Hashable, tuple[float, int]]
"""Prompt → (pairs ranked right, pairs)."""


def prompt_pairs(
    scores: Sequence[float],
    labels: Sequence[bool],
    prompts: Sequence[Hashable],
    lengths: Sequence[float] | None = None,
) -> Pairs:
    """`concordance` of every prompt. Args: one each a response."""
    rows: dict[Hashable, list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows.setdefault(prompt, []).append(row)
    values, has = np.asarray(scores, np.float64), np.asarray(labels, bool)
    sizes = None if lengths is None else np.asarray(lengths, np.float64)
    return {
        prompt: concordance(values[of], has[of], None if sizes is None else sizes[of]) for prompt, of in rows.items()
    }


def within_prompt_auc(pairs: Sequence[Pairs], seed: int = 0) -> Estimate:
    """The AUC over pairs of one prompt's responses, pooled over prompts; the interval resamples prompts.

    Only prompts that have responses of both sorts count; NaN where there is none.

    Args:
        pairs: of one language, or of several with parallel prompts, whose pairs are then drawn together.
    """
    summed: dict[Hashable, list[float]] = {}
    for of in pairs:
        for prompt, (right, n) in of.items():
            total = summed.setdefault(prompt, [0, 0])
            total[0], total[1] = total[0] + right, total[1] + n
    return ratio([right for right, n in summed.values() if n], [n for _, n in summed.values() if n], seed)


def ratio(numerators: ArrayLike, denominators: ArrayLike, seed: int = 0) -> Estimate:
    """Σ numerators / Σ denominators, and its bootstrap interval: the entries, one a prompt, are resampled together."""
    top, bottom = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    if not len(top):
        return Estimate(np.nan, np.nan, np.nan)
    drawn = np.random.default_rng(seed).integers(len(top), size=(RESAMPLES, len(top)))
    return _estimate(top.sum() / bottom.sum(), top[drawn].sum(1) / bottom[drawn].sum(1))


def mean(values: ArrayLike, seed: int = 0) -> Estimate:
    """The mean over prompts of one value a prompt (a rate, or the difference of two rates), and its interval.

    Of differences between two models on the same prompts this is the paired bootstrap.
    """
    numbers = np.asarray(values, np.float64)
    return ratio(numbers, np.ones_like(numbers), seed)


def _estimate(value: float, drawn: Floats) -> Estimate:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(float(value), float(low), float(high))
