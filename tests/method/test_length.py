from __future__ import annotations

from fractions import Fraction
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icr.length import CURVE_POINTS, fit_length_penalty, length_penalty_at

Groups = list[list[tuple[float, float]]]


def split(groups: Groups) -> tuple[list[list[float]], list[list[float]]]:
    return [[r for r, _ in group] for group in groups], [[length for _, length in group] for group in groups]


def gap_of_pairs(groups: Groups, alpha: float) -> float:
    """Mean chosen − rejected length as a loop over prompts finds it, in float64 like a pair builder."""
    gaps = []
    for group in groups:
        if len(group) >= 2:
            penalised = [r - alpha * length for r, length in group]
            gaps.append(group[penalised.index(max(penalised))][1] - group[penalised.index(min(penalised))][1])
    return sum(gaps) / len(gaps)


def exact_gaps(groups: Groups) -> list[Fraction]:
    """|gap| in every interval between crossings of two lines of a prompt, in rational numbers."""
    exact = [[(Fraction(r), Fraction(length)) for r, length in group] for group in groups if len(group) >= 2]
    crossings = sorted(
        {(a[0] - b[0]) / (a[1] - b[1]) for group in exact for a, b in combinations(group, 2) if a[1] != b[1]}
    )
    if not crossings:
        return [Fraction(0)]
    inside = [crossings[0] - 1, *((a + b) / 2 for a, b in pairwise(crossings)), crossings[-1] + 1]
    gaps = []
    for alpha in inside:
        ends = [
            (max(g, key=lambda x: x[0] - alpha * x[1])[1], min(g, key=lambda x: x[0] - alpha * x[1])[1]) for g in exact
        ]
        gaps.append(abs(sum((chosen - rejected for chosen, rejected in ends), Fraction(0)) / len(exact)))
    return gaps


# Small whole numbers make ties, doubles and shared breakpoints common, and breakpoints far apart for float64.
whole = st.lists(
    st.lists(st.tuples(st.integers(-12, 12), st.integers(0, 9)), min_size=0, max_size=5), min_size=1, max_size=5
).filter(lambda groups: any(len(group) >= 2 for group in groups))


@settings(max_examples=400, deadline=None)
@given(whole)
def test_no_alpha_between_breakpoints_does_better(groups: Groups) -> None:
    fit = fit_length_penalty(*split(groups))
    gaps = exact_gaps(groups)
    assert fit.gap == gap_of_pairs(groups, fit.alpha)
    if min(gaps) == max(gaps):  # no α is better than another, and at 0 there may be ties
        assert fit.alpha == 0
        return
    assert abs(fit.gap) == pytest.approx(float(min(gaps)), abs=1e-12)
    beside = {gap_of_pairs(groups, fit.alpha - 1e-9), gap_of_pairs(groups, fit.alpha + 1e-9)}
    assert beside == {fit.gap}, "landed on a tie"


@settings(max_examples=200, deadline=None)
@given(whole, st.integers(-80, 80), st.integers(-20, 20))
def test_scales_change_alpha_and_nothing_else(groups: Groups, reward_power: int, length_power: int) -> None:
    """Powers of two scale without rounding, so α has to scale exactly."""
    fit = fit_length_penalty(*split(groups))
    by_r, by_length = 2.0**reward_power, 2.0**length_power
    scaled = fit_length_penalty(*split([[(r * by_r, length * by_length) for r, length in g] for g in groups]))
    assert scaled.alpha == fit.alpha * by_r / by_length
    assert scaled.gap == fit.gap * by_length


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.sampled_from([1e-9, 1.0, 1e9]))
def test_random_rewards(seed: int, prompts: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    groups: Groups = []
    for _ in range(prompts):
        n = int(rng.integers(2, 11))
        lengths = rng.integers(1, 3000, size=n)
        rewards = scale * (rng.normal(0, 0.02) * lengths + rng.normal(0, 5, size=n))
        groups.append(list(zip(rewards.tolist(), lengths.tolist(), strict=True)))
    fit = fit_length_penalty(*split(groups))
    assert fit.gap == gap_of_pairs(groups, fit.alpha)
    assert abs(fit.gap) == pytest.approx(float(min(exact_gaps(groups))), abs=1e-9)


def test_by_hand() -> None:
    """The docstring's example: steps 6, 2, −4, −6 at 3/2, 5/3 and 2."""
    fit = fit_length_penalty([[0, 4, 10]], [[1, 3, 7]])
    assert fit.alpha == pytest.approx(19 / 12)
    assert (fit.gap, fit.gap_without_penalty) == (2, 6)


def test_alpha_is_negative_when_short_responses_win() -> None:
    """One prompt, r = 3, 1, 0 at lengths 1, 4, 9. At α = 0 the shortest is chosen, the longest rejected: −8.

    Chosen: the longest until −9α = 3 − α, α = −3/8, then the shortest (the middle is at 2.5 there, below both).
    Rejected: the shortest until 3 − α = 1 − 4α, α = −2/3, then the middle until 1 − 4α = −9α, α = −1/5,
    then the longest.
    g = 8 | −2/3 | 9 − 4 = 5 | −3/8 | 1 − 4 = −3 | −1/5 | −8. The smallest is −3, the middle of its step −23/80.
    """
    fit = fit_length_penalty([[3, 1, 0]], [[1, 4, 9]])
    assert fit.alpha == pytest.approx(-23 / 80)
    assert (fit.gap, fit.gap_without_penalty) == (-3, -8)


def test_alpha_is_zero_where_no_penalty_is_as_good() -> None:
    """Two prompts whose gaps cancel from α = −0.5 to 0.25, 0 not being the middle."""
    fit = fit_length_penalty([[1, 0], [2, 0]], [[9, 5], [1, 5]])
    assert (fit.alpha, fit.gap) == (0, 0)


@pytest.mark.parametrize(("rewards", "alpha", "gap"), [([0, 4, 6], 1.25, 2), ([-3, -5, -9], -1.25, -2)])
def test_of_equally_good_steps_the_smaller_alpha_wins(rewards: list[float], alpha: float, gap: float) -> None:
    """Lengths 1, 3, 5. g = 4 | 1 | 2 | 1.5 | −2 | 2 | −4; in the second case the same, 3 to the left."""
    fit = fit_length_penalty([rewards], [[1, 3, 5]])
    assert fit.alpha == pytest.approx(alpha)
    assert fit.gap == gap


def test_equal_lengths_and_ties() -> None:
    same = fit_length_penalty([[1, 2, 3], [4, 5]], [[7, 7, 7], [2, 2]])
    assert (same.alpha, same.gap, same.gap_without_penalty) == (0, 0, 0)
    assert {gap for _, gap in same.curve} == {0}
    tied = fit_length_penalty([[1, 1]], [[3, 8]])
    assert (tied.alpha, tied.gap) == (0, 0)


def test_breakpoints_that_differ_by_rounding_alone_are_one() -> None:
    """0.3/3 and 0.1/1 are one breakpoint to a reader and two in float64. Steps by hand: 5/3 | 0.1 | −1 | 5 | −5/3."""
    groups: Groups = [[(0.3, 3.0), (0.0, 0.0)], [(0.1, 1.0), (0.0, 0.0)], [(5.0, 2.0), (0.0, 1.0)]]
    assert 0.3 / 3 != 0.1 / 1
    fit = fit_length_penalty(*split(groups))
    assert fit.alpha == pytest.approx(2.55)
    assert fit.gap == gap_of_pairs(groups, fit.alpha) == -1
    # Three lines through one point, at 0.1: on paper +3 before and −3 behind. In float64 they meet at three points.
    fit = fit_length_penalty([[0.2, 0.0, 0.3]], [[2, 0, 3]])
    assert (fit.alpha, fit.gap) == (0, 3)


def test_a_step_too_narrow_to_resolve_is_passed_over() -> None:
    """Between α = 1 and 1 + 1e-12 the gap is 0 on paper, but r − α·l rounds to a tie there, and a tie makes no pair."""
    groups: Groups = [[(1e6 + 100, 100.0), (1e6, 0.0)], [(float(np.nextafter(1e6 + 100, 2e6)), 100.0), (1e6, 0.0)]]
    crossings = [(group[0][0] - group[1][0]) / 100 for group in groups]
    assert crossings[0] < crossings[1]
    fit = fit_length_penalty(*split(groups))
    assert (fit.alpha, fit.gap) == (0, 100)


def test_prompts_with_fewer_than_two_responses_count_for_nothing() -> None:
    groups: Groups = [[(0.0, 1.0), (4.0, 3.0), (10.0, 7.0)]]
    padded = fit_length_penalty(*split([[], *groups, [(99.0, 1000.0)]]))
    assert padded == fit_length_penalty(*split(groups))


def test_curve_lies_around_alpha_and_falls() -> None:
    rng = np.random.default_rng(1)
    lengths = rng.integers(10, 900, size=(40, 6)).tolist()
    rewards = [[0.02 * length + rng.normal() for length in row] for row in lengths]
    fit = fit_length_penalty(rewards, lengths)
    alphas, gaps = zip(*fit.curve, strict=True)
    assert len(alphas) == CURVE_POINTS == 101
    assert (alphas[50], gaps[50]) == (fit.alpha, fit.gap)
    assert alphas[0] < 0 < fit.alpha < alphas[-1]
    assert all(a >= b for a, b in pairwise(gaps))
    groups = [list(zip(r, ls, strict=True)) for r, ls in zip(rewards, lengths, strict=True)]
    assert gaps == pytest.approx([gap_of_pairs(groups, alpha) for alpha in alphas])


def test_a_given_alpha_is_reported_on() -> None:
    rewards, lengths = [[0, 4, 10]], [[1, 3, 7]]
    given_alpha = length_penalty_at(rewards, lengths, 1.9)
    assert (given_alpha.alpha, given_alpha.gap, given_alpha.gap_without_penalty) == (1.9, -4, 6)
    assert given_alpha.curve[50] == (1.9, -4)


@pytest.mark.parametrize(
    ("rewards", "lengths", "message"),
    [
        ([], [], "none of 0 prompts has two responses"),
        ([[1.0], []], [[2], []], "none of 2 prompts has two responses"),
        ([[1.0, 2.0]], [], "rewards of 1 prompts, but lengths of 0"),
        ([[1.0, 2.0], [1.0]], [[1, 2], [1, 2]], "prompt at index 1 has 1 rewards, but 2 lengths"),
        ([[1.0, 2.0], [3.0, float("nan")]], [[1, 2], [1, 2]], "the reward nan of the prompt at index 1"),
        ([[1.0, 2.0], [], [3.0, float("-inf")]], [[1, 2], [], [1, 2]], "the reward -inf of the prompt at index 2"),
        ([[1.0, 2.0]], [[float("inf"), 2]], "the length inf of the prompt at index 0"),
        ([[1e300, 2.0]], [[1, 2]], "the reward 1e"),
    ],
)
def test_bad_input(rewards: list[list[float]], lengths: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_length_penalty(rewards, lengths)
