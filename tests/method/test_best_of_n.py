"""Best of n: expected values against every subset of the samples, KL against published figures."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from icr.best_of_n import (
    best_of_k_weights,
    choose_best,
    exact_kl,
    expected_best,
    expected_known,
    expected_scored,
    kl_bound,
)


def test_expected_best_is_the_mean_over_all_subsets() -> None:
    rewards = [0.3, -1.2, 2.0, 0.7, 0.1, 1.4]
    values = [1.0, 0.0, 0.25, 0.5, 1.0, 0.0]
    for k in range(1, 7):
        subsets = list(combinations(range(6), k))
        best = [max(subset, key=lambda n: rewards[n]) for subset in subsets]
        assert expected_best(rewards, k) == pytest.approx(np.mean([rewards[n] for n in best]), abs=1e-12)
        assert expected_best(rewards, k, values) == pytest.approx(np.mean([values[n] for n in best]), abs=1e-12)
        assert best_of_k_weights(6, k).sum() == pytest.approx(1)
    assert best_of_k_weights(4, 2).tolist() == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6])
    assert best_of_k_weights(64, 64).tolist() == [0.0] * 63 + [1.0]


def test_equal_rewards_share_their_places() -> None:
    """Whichever of two equally good answers is taken: the result does not depend on their order."""
    one, other = expected_best([1, 1, 0], 2, [1, 0, 0]), expected_best([1, 1, 0], 2, [0, 1, 0])
    assert one == other == pytest.approx(0.5)


def test_kl() -> None:
    """The bound at 64 is 3.17 nats; a policy of four answers is a little below the bound."""
    assert [kl_bound(k) for k in (1, 2, 4, 64)] == pytest.approx([0, 0.1931, 0.6363, 3.1745], abs=5e-5)
    four = [0.1, 0.2, 0.3, 0.4]
    assert [exact_kl(four, k) for k in (1, 2, 4)] == pytest.approx([0, 0.1760, 0.5405], abs=5e-5)
    fine = [1 / 10_000] * 10_000
    assert exact_kl(fine, 64) == pytest.approx(kl_bound(64), abs=5e-3) and exact_kl(fine, 64) < kl_bound(64)


def test_what_cannot_be() -> None:
    for n, k in ((4, 5), (4, 0)):
        with pytest.raises(ValueError, match=f"best of {k} out of 4"):
            best_of_k_weights(n, k)
    with pytest.raises(ValueError, match="2 values for 3 rewards"):
        expected_best([1, 2, 3], 1, [1, 2])
    with pytest.raises(ValueError, match="best of 0"):
        kl_bound(0)


def test_a_sample_without_a_reward_is_never_chosen() -> None:
    """The mean of the best over the subsets that hold a reward."""
    rewards = [0.3, None, 2.0, None, 0.1]
    for k in range(1, 6):
        held = [[r for n in subset if (r := rewards[n]) is not None] for subset in combinations(range(5), k)]
        assert expected_scored(rewards, k) == pytest.approx(np.mean([max(r) for r in held if r]), abs=1e-12)
    assert expected_scored(rewards, 1) == pytest.approx(0.8) and expected_scored(rewards, 5) == 2.0
    assert expected_scored([None, None], 2) is None
    with pytest.raises(ValueError, match="best of 3 out of 2"):
        expected_scored([1.0, None], 3)


def test_the_win_rate_of_the_best_where_rewards_and_verdicts_are_missing() -> None:
    """The mean over all choices of k whose best has a verdict; a choice without a reward has no best."""
    rewards = [0.3, None, 2.0, 0.7, 0.1, None, 1.4]
    wins = [1.0, 0.5, None, 0.25, 1.0, 0.0, 0.75]
    for k in range(1, 8):
        found = []
        for subset in combinations(range(7), k):
            scored = [n for n in subset if rewards[n] is not None]
            best = max(scored, key=lambda n: rewards[n] or 0.0) if scored else None
            if best is not None and wins[best] is not None:
                found.append(wins[best])
        wanted = pytest.approx(np.mean([w or 0.0 for w in found]), abs=1e-12) if found else None
        assert expected_known(rewards, wins, k) == wanted
    assert expected_known([1.0, 1.0, 0.0], [1.0, 0.0, 0.5], 2) == pytest.approx(0.5)  # equal ones share
    whole = [0.3, -1.2, 2.0, 0.7]
    assert expected_known(whole, [0.1, 0.2, 0.3, 0.4], 2) == pytest.approx(
        expected_best(whole, 2, [0.1, 0.2, 0.3, 0.4])
    )
    assert expected_known(whole, whole, 3) == pytest.approx(expected_scored(whole, 3))
    assert expected_known([None, 1.0], [1.0, None], 1) is None
    with pytest.raises(ValueError, match="1 values for 2 rewards"):
        expected_known([1.0, 2.0], [1.0], 1)


def test_the_best_of_the_first_k_is_chosen() -> None:
    rewards = [None, 0.5, 2.0, 2.0, -1.0]
    assert [choose_best(rewards, k) for k in range(1, 6)] == [None, 1, 2, 2, 2]
