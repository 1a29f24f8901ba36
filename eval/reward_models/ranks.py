"""Which source is best for a target: ranks, how alike two rankings are, and means over sources × targets."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, rankdata

Floats = NDArray[np.float64]
Matrix = Sequence[Sequence[float]]
"""Rows are sources, columns targets."""


def rank_sources(matrix: Matrix) -> NDArray[np.int64]:
    """Each source's rank for each target: 1 is the best, equal values share the better rank.

    Returns:
        Shape (sources, targets).
    """
    values = -np.asarray(matrix, dtype=np.float64)
    return np.asarray(rankdata(values, method="min", axis=0), dtype=np.int64)


def ranking_agreement(one: Matrix, other: Matrix) -> Floats:
    """Kendall's τ (b, which allows for equal values) between the sources' orders in two matrices, of each target.

    Returns:
        Shape (targets,); NaN where all values of a column are equal.
    """
    first, second = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    return np.array([float(kendalltau(a, b).statistic) for a, b in zip(first.T, second.T, strict=True)])


def order_agreement(one: Matrix, other: Matrix) -> float:
    """How often two judges order two sources alike, over all pairs of sources of all targets.

    A pair that one of them alone holds for equal is ordered differently.

    Raises:
        ValueError: there are no two sources.
    """
    alike = [
        np.sign(a[i] - a[j]) == np.sign(b[i] - b[j])
        for a, b in zip(np.asarray(one, dtype=np.float64).T, np.asarray(other, dtype=np.float64).T, strict=True)
        for i, j in combinations(range(len(a)), 2)
    ]
    if not alike:
        raise ValueError("fewer than two sources")
    return float(np.mean(alike))


def transfer_mean(matrix: Matrix) -> float:
    """The mean over all cells whose source is not the target."""
    values = np.asarray(matrix, dtype=np.float64)
    return float(values[~np.eye(len(values), dtype=bool)].mean())
