"""Best of n: the response with the highest reward, what it is worth, and how far it is from the policy.

From n samples of one prompt follows the *expected* result of best-of-k for every k ≤ n, without sampling again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@cache
def best_of_k_weights(n: int, k: int) -> Floats:
    """P(the i-th smallest of n rewards is the largest of k that are drawn without repetition): C(i−1, k−1)/C(n, k).

    Args:
        n: samples; k: from 1 to n.

    Returns:
        Shape (n,), for i = 1 … n; it sums to 1. Read-only.

    Raises:
        ValueError: k is outside of 1…n.
    """
    if not 1 <= k <= n:
        raise ValueError(f"best of {k} out of {n} samples")
    whole = math.comb(n, k)
    weights = np.array([math.comb(i - 1, k - 1) / whole for i in range(1, n + 1)])
    weights.flags.writeable = False
    return weights


def expected_best(rewards: Sequence[float], k: int, values: Sequence[float] | None = None) -> float:
    """E of a value of the best of k samples: Σ_i v_(i)·C(i−1, k−1)/C(n, k), in the order of rising rewards.

    Args:
        rewards: of the n samples of one prompt. Samples of equal reward share their places' weights.
        values: of the samples, such as a judge's win rate; None: the rewards themselves.

    Raises:
        ValueError: k is outside of 1…n, or there is not one value a reward.
    """
    r = np.asarray(rewards, dtype=np.float64)
    v = r if values is None else np.asarray(values, dtype=np.float64)
    if v.shape != r.shape:
        raise ValueError(f"{len(v)} values for {len(r)} rewards")
    order = np.argsort(r, kind="stable")
    weights = best_of_k_weights(len(r), k)
    _, place = np.unique(r[order], return_inverse=True)
    shared = (np.bincount(place, weights) / np.bincount(place))[place]
    return float(shared @ v[order])


def expected_scored(rewards: Sequence[float | None], k: int) -> float | None:
    """E of the reward of the best of k samples, where some of the n have none and are never chosen:

        Σ_i r_(i)·C(i−1, k−1) / Σ_i C(i−1, k−1), over the places i = d+1 … n of the known rewards

    The d samples without a reward have the lowest places. It is the mean over those choices of k that hold a reward.

    Returns:
        None where no reward is known.

    Raises:
        ValueError: k is outside of 1…n.
    """
    known = sorted(reward for reward in rewards if reward is not None)
    weights = best_of_k_weights(len(rewards), k)[len(rewards) - len(known) :]
    return float(weights @ np.array(known) / weights.sum()) if known else None


def expected_known(rewards: Sequence[float | None], values: Sequence[float | None], k: int) -> float | None:
    """E of a value of the best of k samples, such as a judge's win rate w, where some have no reward or no value:

        Σ_i w_(i)·C(i−1, k−1) / Σ_i C(i−1, k−1), over the places i of rising rewards where both are known

    Samples without a reward have the lowest places, as in `expected_scored`. It is the mean over those choices of k
    whose best has a value. Samples of equal reward share their places' weights.

    Returns:
        None where no choice has one.

    Raises:
        ValueError: k is outside of 1…n, or there is not one value a reward.
    """
    if len(values) != len(rewards):
        raise ValueError(f"{len(values)} values for {len(rewards)} rewards")
    r = np.array([-np.inf if reward is None else reward for reward in rewards], dtype=np.float64)
    v = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    _, place, count = np.unique(r, return_inverse=True, return_counts=True)
    of_place = np.bincount(np.sort(place), best_of_k_weights(len(r), k)) / count
    weights = of_place[place] * (np.isfinite(r) & np.isfinite(v))
    whole = float(weights.sum())
    return float(weights @ np.nan_to_num(v)) / whole if whole > 0 else None


def choose_best(rewards: Sequence[float | None], k: int) -> int | None:
    """The place of the highest reward among the first k samples, the first of equal ones; None: none has a reward."""
    known = [(reward, -place) for place, reward in enumerate(rewards[:k]) if reward is not None]
    return -max(known)[1] if known else None


def kl_bound(k: int) -> float:
    """log k − (k − 1)/k nats: at most so far is best-of-k from the policy, KL(best-of-k ‖ policy).

    Raises:
        ValueError: k < 1.
    """
    if k < 1:
        raise ValueError(f"best of {k}")
    return math.log(k) - (k - 1) / k


def exact_kl(probabilities: Sequence[float], k: int) -> float:
    """KL(best-of-k ‖ policy) in nats of a policy with finitely many answers: Σ_i q_i·log(q_i/p_i).

    q_i = F_i^k − F_{i−1}^k, with F_i the probability of the i answers of lowest reward.

    Args:
        probabilities: p of the answers, in the order of rising rewards, which all differ; they sum to 1.
        k: samples.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    below = np.concatenate([[0.0], np.cumsum(p)])
    q = np.diff(below**k)
    there = q > 0
    return float(np.sum(q[there] * np.log(q[there] / p[there])))
