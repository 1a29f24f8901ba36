"""The win rates against values derived by hand, their invariances, and tables that a fit cannot serve."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pytest

from eval.rates import win_rate
from eval.xalpaca.judged_pairs import Floats, JudgedPairs
from eval.xalpaca.lc import length_controlled
from icr.base.errors import UserError

pytestmark = pytest.mark.usefixtures("quiet")
TAU = math.tanh(math.sqrt(3) / 2)  # |t| of two pairs at +D and two at −D: s = D·√(4/3)


def judged(preference: Sequence[float] | Floats, difference: Sequence[float] | Floats) -> JudgedPairs:
    """Pairs whose model answers are `difference` characters longer than the baseline's 5,000."""
    y, delta = np.asarray(preference, dtype=float), np.asarray(difference, dtype=float)
    return JudgedPairs(y, 5000 + delta, np.full(len(y), 5000.0), tuple(str(i) for i in range(len(y))))


def swapped(pairs: JudgedPairs) -> JudgedPairs:
    return JudgedPairs(1 - pairs.preference, pairs.len_baseline, pairs.len_model, pairs.index)


def sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-x))


def feature(difference: Floats) -> Floats:
    return np.tanh(-difference / np.std(difference, ddof=1))


def synthetic(n: int, seed: int = 0) -> tuple[JudgedPairs, dict[str, float]]:
    rng = np.random.default_rng(seed)
    difference = np.round(rng.normal(200, 500, n))
    difficulty = rng.normal(0, 1.5, n)
    y = rng.uniform(size=n) < sigmoid(-1.5 * feature(difference) + 0.8 * difficulty - 0.5)
    return judged(y.astype(float), difference), {str(i): float(d) for i, d in enumerate(difficulty)}


# The raw win rate


def test_win_rate_by_hand() -> None:
    # mean 0.5; squared deviations 0.25 + 0.25 + 0 + 0, over n − 1 = 3, over n = 4
    assert win_rate([0, 1, 0.5, 0.5]) == pytest.approx((50, 100 * math.sqrt(0.5 / 3 / 4)))


def test_one_preference_has_no_standard_error() -> None:
    assert win_rate([0.25]) == (25.0, None)


def test_no_preference_is_explained() -> None:
    with pytest.raises(UserError, match="no judged pair has a verdict"):
        win_rate([])
    with pytest.raises(UserError, match="no judged pair has a verdict"):
        length_controlled(judged([math.nan, math.nan], [1, 2]))


@pytest.mark.parametrize("wrong", [1.5, -0.1, math.nan])
def test_win_rate_refuses_what_is_no_preference(wrong: float) -> None:
    with pytest.raises(ValueError, match="0…1"):
        win_rate([0.5, wrong])


# The length-controlled one, by hand


def test_two_lengths_by_hand() -> None:
    """Two lengths and two parameters: the fit meets both group means, and equal length is half way on the logit scale.

    Shorter group mean 0.8 = σ(ln 4), longer group mean 0.4 = σ(−ln 1.5): w_0 = (ln 4 − ln 1.5)/2 = ln √(8/3).
    A pair moves w_0 by half its residual, ±0.1, over its group's 2·p(1−p): 0.32 and 0.48.
    """
    result = length_controlled(judged([0.7, 0.9, 0.3, 0.5], [-600, -600, 600, 600]))
    odds = math.sqrt(8 / 3)
    rate = odds / (1 + odds)
    assert result.lc_win_rate == pytest.approx(100 * rate, abs=1e-6)
    assert result.win_rate == pytest.approx(60)
    assert result.weights == pytest.approx(
        {"tanh_len": (math.log(4) + math.log(1.5)) / 2 / TAU, "intercept": math.log(odds)}
    )
    squares = 0.25 * 2 * ((0.1 / 0.32) ** 2 + (0.1 / 0.48) ** 2)
    assert result.lc_win_rate_se == pytest.approx(100 * rate * (1 - rate) * math.sqrt(squares * 4 / (4 - 2)), rel=1e-5)
    assert (result.n, result.variant, result.note) == (4, "length_controlled_minimal", None)


def test_exact_preferences_give_their_weights_back() -> None:
    """Preferences made by the formula are fitted without residual, whatever the weight of the gamed pairs."""
    rng = np.random.default_rng(4)
    difficulty = {str(i): float(d) for i, d in enumerate(rng.normal(size=60))}
    d = np.array(list(difficulty.values()))
    differences = [np.round(rng.normal(mean, 400, 60)) for mean in (100, 900, -900)]
    tables = [
        judged(sigmoid(-1.2 * feature(x) + 0.7 * d + w0), x) for x, w0 in zip(differences, (0.4, 0, 0), strict=True)
    ]
    expected = pytest.approx({"tanh_len": -1.2, "difficulty": 0.7, "intercept": 0.4}, abs=1e-6)
    with_gamed = length_controlled(tables[0], difficulty, tables[1:])
    without = length_controlled(tables[0], difficulty)
    assert with_gamed.weights == expected and without.weights == expected
    assert (with_gamed.variant, without.variant) == ("length_controlled_v1", "length_controlled_noreg")
    assert with_gamed.lc_win_rate == pytest.approx(100 * sigmoid(0.7 * d + 0.4).mean(), abs=1e-5)
    assert with_gamed.lc_win_rate_se is not None and without.lc_win_rate_se is not None


def test_gamed_pairs_weigh_a_tenth_and_have_no_intercept() -> None:
    """The weights are a root of the score: Σ x(y − p) of the model's rows plus 0.1 times that of the gamed ones."""
    pairs, difficulty = synthetic(80)
    gamed = [
        judged(table.preference, table.len_model - 5000 + shift)
        for shift, table in ((800, synthetic(80, seed=1)[0]), (-700, synthetic(80, seed=2)[0]))
    ]
    weights = length_controlled(pairs, difficulty, gamed).weights
    assert weights is not None
    d = np.array(list(difficulty.values()))
    score = np.zeros(3)
    for table, weight, w0 in ((pairs, 1.0, 1.0), (gamed[0], 0.1, 0.0), (gamed[1], 0.1, 0.0)):
        x = np.stack([feature(table.len_model - table.len_baseline), d, np.full(80, w0)], axis=1)
        score += weight * x.T @ (table.preference - sigmoid(x @ np.array(list(weights.values()))))
    assert score == pytest.approx(0, abs=1e-6)


def test_separated_lengths_by_hand() -> None:
    """Firth's penalty on two cells with a parameter each adds half a win and half a loss to each cell.

    Shorter: 3 of 3 won, 3.5/4 = σ(ln 7). Longer: 1 of 3, 1.5/4 = σ(ln 0.6). Half way: ½ ln 4.2.
    """
    result = length_controlled(judged([1, 1, 1, 0, 1, 0], [-300] * 3 + [300] * 3))
    odds = math.sqrt(4.2)
    assert result.variant == "length_controlled_minimal_firth"
    assert result.lc_win_rate == pytest.approx(100 * odds / (1 + odds), abs=1e-3)
    assert result.note is not None and "Firth" in result.note
    assert result.lc_win_rate_se is not None and 0 < result.lc_win_rate_se < 50
    even = length_controlled(judged([1, 1, 1, 0, 0, 0], [-300] * 3 + [300] * 3))
    assert even.lc_win_rate == pytest.approx(50, abs=1e-3)


def test_nearly_certain_verdicts_are_separated_like_certain_ones() -> None:
    certain = length_controlled(judged([1, 1, 1, 0, 0, 0, 1], [-400, -300, -10, 20, 300, 500, -20]))
    nearly = length_controlled(judged([1 - 1e-9] * 3 + [1e-9] * 3 + [1], [-400, -300, -10, 20, 300, 500, -20]))
    assert certain.variant == nearly.variant == "length_controlled_minimal_firth"
    assert nearly.lc_win_rate == pytest.approx(certain.lc_win_rate, abs=1e-4)


# Invariances


@pytest.mark.parametrize("n", [6, 7, 20, 200])
@pytest.mark.parametrize("with_difficulty", [False, True])
def test_swapping_model_and_baseline_mirrors_the_rates(n: int, with_difficulty: bool) -> None:
    for seed in range(10):
        pairs, difficulty = synthetic(n, seed)
        one, other = (length_controlled(p, difficulty if with_difficulty else None) for p in (pairs, swapped(pairs)))
        assert one.win_rate + other.win_rate == pytest.approx(100)
        assert one.lc_win_rate + other.lc_win_rate == pytest.approx(100, abs=1e-3)
        assert one.lc_win_rate_se == pytest.approx(other.lc_win_rate_se, abs=1e-3)


def test_the_order_of_rows_and_the_unit_of_length_do_not_matter() -> None:
    pairs, difficulty = synthetic(100)
    assert pairs.index is not None
    order = np.random.default_rng(0).permutation(100)
    index = tuple(pairs.index[i] for i in order)
    shuffled = JudgedPairs(pairs.preference[order], 4 * pairs.len_model[order], 4 * pairs.len_baseline[order], index)
    assert length_controlled(shuffled, difficulty).lc_win_rate == pytest.approx(
        length_controlled(pairs, difficulty).lc_win_rate, abs=1e-6
    )


def test_lengths_that_do_not_matter_leave_the_raw_rate_and_its_error() -> None:
    """The same verdicts at both lengths: w_len = 0, and the error is the raw one with n − 2 in the place of n − 1."""
    result = length_controlled(judged([0, 1, 1, 0, 1, 1], [-300] * 3 + [300] * 3))
    assert result.weights == pytest.approx({"tanh_len": 0, "intercept": math.log(2)}, abs=1e-6)
    assert result.lc_win_rate == pytest.approx(result.win_rate, abs=1e-6)
    assert result.win_rate_se is not None
    assert result.lc_win_rate_se == pytest.approx(result.win_rate_se * math.sqrt(5 / 4), rel=1e-5)


def test_a_model_that_wins_by_length_loses_it_under_control() -> None:
    pairs, _ = synthetic(400)
    longer = length_controlled(pairs)
    assert longer.lc_win_rate < longer.win_rate - 3


def test_standard_error_agrees_with_the_bootstrap() -> None:
    pairs, difficulty = synthetic(150, seed=5)
    d = np.array(list(difficulty.values()))
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(400):
        rows = rng.integers(0, 150, 150)
        drawn = judged(pairs.preference[rows], pairs.len_model[rows] - 5000)
        rates.append(length_controlled(drawn, {str(i): float(v) for i, v in enumerate(d[rows])}).lc_win_rate)
    assert length_controlled(pairs, difficulty).lc_win_rate_se == pytest.approx(np.std(rates), rel=0.15)


# Tables that a fit cannot serve


@pytest.mark.parametrize(
    ("preference", "difference", "why"),
    [
        ([0, 0, 0, 0, 0], [1, -2, 3, -4, 5], "same side"),
        ([1, 1, 1, 1, 1], [1, -2, 3, -4, 5], "same side"),
        ([1, 0.999, 0.995, 1, 1], [1, -2, 3, -4, 5], "same side"),
        ([0, 1, 0.5, 0.2], [0, 0, 0, 0], "same in every pair"),
        ([0, 1, 0.5, 0.2], [700, 700, 700, 700], "same in every pair"),
        ([0.4], [10], "same in every pair"),
        ([0.4, 0.6], [10, -10], "too few"),
        ([0, 1, 1, 0, 1], [5000, 5001, 5002, 5001, 5003], "differ too much"),
        ([0, 1, 1, 0, 1], [900, 950, 1000, 920, 980], "differ too much"),
        ([0, 1, 1, 0, 1], [150, 260, 200, 180, 340], "differ too much"),
    ],
)
def test_the_raw_rate_stands_in_with_a_reason(preference: list[float], difference: list[float], why: str) -> None:
    result = length_controlled(judged(preference, difference))
    assert result.note is not None and why in result.note
    assert result.variant == "not_length_controlled" and result.weights is None
    assert (result.lc_win_rate, result.lc_win_rate_se) == win_rate(preference)
    json.dumps(asdict(result), allow_nan=False)


def test_difficulties_that_say_nothing_are_left_out() -> None:
    pairs, _ = synthetic(30)
    plain = length_controlled(pairs)
    constant = length_controlled(pairs, {str(i): 1.5 for i in range(30)})
    assert constant.variant == "length_controlled_minimal" and constant.lc_win_rate == plain.lc_win_rate
    assert constant.note is not None and constant.note.startswith("difficulties left out")
    saturated = length_controlled(
        judged([0, 1, 1, 0, 1], [5000, 5001, 5002, 5001, 5003]), {str(i): 0.0 for i in range(5)}
    )
    assert saturated.variant == "not_length_controlled"
    assert (
        saturated.note is not None and "difficulties left out" in saturated.note and "differ too much" in saturated.note
    )


@pytest.mark.parametrize("n", range(1, 10))
def test_small_tables_of_any_kind_give_finite_rates(n: int) -> None:
    rng = np.random.default_rng(n)
    gamed = [judged(synthetic(40, 7)[0].preference, rng.normal(shift, 300, 40)) for shift in (800, -800)]
    difficulty = {str(i): float(v) for i, v in enumerate(rng.normal(size=40))}
    for _ in range(40):
        y = rng.choice([[0, 0.5, 1, 1], [1e-9, 1 - 1e-9, 0, 0.98], [0.2, 0.5, 0.7, 0.9]][rng.integers(3)], n)
        pairs = judged(y, rng.choice([0, 1, -300, 450, 20000, -4999], n))
        for result in (
            length_controlled(pairs),
            length_controlled(pairs, difficulty),
            length_controlled(pairs, difficulty, gamed),
        ):
            json.dumps(asdict(result), allow_nan=False)
            assert 0 <= result.lc_win_rate <= 100 and result.n == n
            assert (result.lc_win_rate_se is None) == (n == 1)


def test_unscored_pairs_are_counted_and_left_out() -> None:
    some = length_controlled(judged([0.7, math.nan, 0.9, 0.3, math.nan, 0.5], [-600, 9000, -600, 600, math.nan, 600]))
    assert (some.n, some.unscored) == (4, 2)
    assert some.lc_win_rate == length_controlled(judged([0.7, 0.9, 0.3, 0.5], [-600, -600, 600, 600])).lc_win_rate


def test_what_the_difficulties_need() -> None:
    pairs, difficulty = synthetic(20)
    with pytest.raises(UserError, match="add --difficulty, or leave out --gamed"):
        length_controlled(pairs, gamed=[pairs])
    with pytest.raises(UserError, match="no column index"):
        length_controlled(JudgedPairs(pairs.preference, pairs.len_model, pairs.len_baseline), difficulty)
    del difficulty["17"]
    with pytest.raises(UserError, match="index 17 has no difficulty"):
        length_controlled(pairs, difficulty)
    with pytest.raises(UserError, match="same in every pair of the model"):
        length_controlled(pairs, difficulty | {"17": 0.0}, [judged([0.5, 0.5], [1, 1])])
    with pytest.raises(ValueError, match="equally long"):
        JudgedPairs(np.zeros(2), np.zeros(2), np.zeros(3))
