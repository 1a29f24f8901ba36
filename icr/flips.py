"""How often precision decides: the (best, worst) pairs that two sets of rewards do not agree on."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def pair_flips(rewards_a: ArrayLike, rewards_b: ArrayLike, prompt_index: ArrayLike) -> int:
    """On how many prompts two sets of rewards pick another (best, worst) pair.

    Args:
        rewards_a, rewards_b: float [responses], the same responses' rewards at two precisions.
        prompt_index: int [responses], which prompt a response belongs to; a prompt's responses need not be adjacent.

    Of equal rewards the first counts, as in numpy's argmax and argmin. Raises ValueError on unequal lengths and NaN.
    """
    a, b, index = np.asarray(rewards_a, float), np.asarray(rewards_b, float), np.asarray(prompt_index)
    if not a.shape == b.shape == index.shape or a.ndim != 1:
        raise ValueError(f"three equally long lists are needed, got shapes {a.shape}, {b.shape} and {index.shape}")
    if np.isnan(a).any() or np.isnan(b).any():
        raise ValueError("rewards must not be NaN")
    groups = (np.flatnonzero(index == prompt) for prompt in np.unique(index))
    return sum((a[g].argmax(), a[g].argmin()) != (b[g].argmax(), b[g].argmin()) for g in groups)
