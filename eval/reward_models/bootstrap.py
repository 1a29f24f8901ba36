"""95 % intervals by drawing whole groups: responses to one prompt are not independent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eval.clusters import CONFIDENCE, FEWEST

Floats = NDArray[np.float64]
Interval = tuple[float, float]
DRAWS = 2000


def draw_weights(groups: Sequence[str], seed: int = 0, draws: int = DRAWS) -> Floats | None:
    """How often each row is in each bootstrap sample of the groups.

    Args:
        groups: of the rows.

    Returns:
        Shape (draws, rows); None where there are too few groups for an interval.
    """
    names, place = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < FEWEST:
        return None
    counts = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    weights: Floats = counts.astype(np.float64)[:, place]
    return weights


def interval_of(values: Floats) -> Interval | None:
    """The percentiles of a statistic over the draws; None where it is undefined in one of twenty or more."""
    known = values[np.isfinite(values)]
    if len(known) < CONFIDENCE * len(values):
        return None
    low, high = np.percentile(known, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return float(low), float(high)


def mean_interval(values: Sequence[float] | Floats, weights: Floats | None) -> Interval | None:
    """Of the mean of one value a row.

    Args:
        weights: of `draw_weights`.
    """
    if weights is None:
        return None
    return interval_of(weights @ np.asarray(values, dtype=np.float64) / weights.sum(axis=1))


def auc(scores: Sequence[float] | Floats, labels: Sequence[int], weights: Floats | None = None) -> Floats:
    """P(score of a good response > score of another) + ½ P(equal), by the rank sum.

    Args:
        scores, labels: of the rows.
        weights: shape (draws, rows); None: every row once.

    Returns:
        Shape (draws,), or (1,) without weights; NaN where a draw has one label alone.
    """
    values, place = np.unique(np.asarray(scores, dtype=np.float64), return_inverse=True)
    drawn = np.ones((1, len(place))) if weights is None else weights
    good = np.asarray(labels, dtype=bool)
    one_hot = np.zeros((len(place), len(values)))
    one_hot[np.arange(len(place)), place] = 1
    positive, negative = drawn[:, good] @ one_hot[good], drawn[:, ~good] @ one_hot[~good]
    below = np.cumsum(negative, axis=1) - negative
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = (positive * (below + 0.5 * negative)).sum(axis=1) / (
            positive.sum(axis=1) * negative.sum(axis=1)
        )
    return found
