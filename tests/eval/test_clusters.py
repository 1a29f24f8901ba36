"""The estimator of all averages and differences: by hand, and against SciPy's own tests where they say the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest, norm, ttest_1samp, ttest_ind

from eval.clusters import PERCENT, Part, degrees, estimate, few, wilson


def parts(values: np.ndarray, names: list[list[str]] | None = None) -> list[Part]:
    ids = names or [[str(i) for i in range(len(row))] for row in values]
    return [Part.of(dict(zip(of, map(float, row), strict=True))) for of, row in zip(ids, values, strict=True)]


def test_translations_of_the_same_prompts_have_the_t_interval_of_the_prompts_means() -> None:
    rng = np.random.default_rng(0)
    values = rng.random(20) + 0.3 * rng.random((4, 20))
    found, scipy = estimate(parts(values)), ttest_1samp(values.mean(axis=0), 0)
    assert found.value == pytest.approx(values.mean())
    assert found.se == pytest.approx(values.mean(axis=0).std(ddof=1) / math.sqrt(20))
    assert (found.low, found.high) == pytest.approx(tuple(scipy.confidence_interval()))
    assert (found.n, found.why) == (20, None)
    again = estimate(parts(np.concatenate([values, values])))
    assert again.se == pytest.approx(found.se), "a language that says the same again makes nothing surer"


def test_languages_without_a_prompt_in_common_have_welchs_interval() -> None:
    rng = np.random.default_rng(1)
    one, two = rng.normal(3, 1, 30), rng.normal(1, 4, 8)
    found = estimate([*parts([one]), *parts([two], [[f"other {i}" for i in range(8)]])])  # type: ignore[list-item]
    low, high = ttest_ind(one, -two, equal_var=False).confidence_interval()
    assert (found.low, found.high) == pytest.approx((low / 2, high / 2))


def test_errors_where_languages_share_some_prompts_by_hand() -> None:
    """de has a…f, es c…h. A prompt's move is half of each language's (x − mean) / √(6·5)."""
    de, es = dict(zip("abcdef", [1, 0, 1, 1, 0, 0], strict=True)), dict(zip("cdefgh", [1, 1, 1, 0, 1, 0], strict=True))
    root = math.sqrt(30)
    moves = [0.5, -0.5, 0.5 + 1 / 3, 0.5 + 1 / 3, -0.5 + 1 / 3, -0.5 - 2 / 3, 1 / 3, -2 / 3]
    found = estimate([Part.of(de), Part.of(es)])
    assert found.value == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found.se == pytest.approx(math.sqrt(sum((m / 2 / root) ** 2 for m in moves)))
    # the trace of the product of two projections on deviations from the mean, over four shared prompts of six each
    w = [(6 * 0.25 / 30) / 5, (4 / 3 / 30) / 5]
    crossed = 4 - 4 / 6 - 4 / 6 + 16 / 36
    df = (5 * w[0] + 5 * w[1]) ** 2 / (5 * w[0] ** 2 + 5 * w[1] ** 2 + 2 * w[0] * w[1] * crossed)
    u = np.array([[p.moves.get(i, 0.0) for i in "abcdefgh"] for p in (Part.of(de), Part.of(es))])
    there = np.array([[i in of for i in "abcdefgh"] for of in (de, es)], dtype=float)
    assert degrees(u, there) == pytest.approx(df)
    assert 5 < df < 10, "between one language's and that of unrelated ones"


def test_a_rate_has_wilsons_interval() -> None:
    """Of yes-or-no answers, with the error that a binomial has, it is the one that SciPy has."""
    z = float(norm.ppf(0.975))
    for wins, n in ((9, 12), (1, 20), (400, 805)):
        p = wins / n
        low, high = wilson(100 * p, 100 * math.sqrt(p * (1 - p) / n), z, n, PERCENT)
        scipy = binomtest(wins, n).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx((100 * scipy.low, 100 * scipy.high))


def test_all_won_is_no_certainty() -> None:
    """Wilson's with t₁₁ = 2.20099 and twelve wins: from 12 / (12 + t²)."""
    found = estimate([Part.of(dict.fromkeys("abcdefghijkl", 100.0))], PERCENT)
    assert (found.low, found.high) == pytest.approx((100 * 12 / (12 + 2.2009852**2), 100.0))


def test_few_prompts_and_equal_values_have_no_interval_and_say_so() -> None:
    five = estimate([Part.of({str(i): float(i) for i in range(5)})])
    assert few(1) == "1 prompt is too few; an interval needs 6"
    assert (five.low, five.high, five.why) == (None, None, "5 prompts are too few; an interval needs 6")
    assert five.se == pytest.approx(math.sqrt(2.5 / 5))
    one = estimate([Part.of({"a": 1.0}), Part.of({"a": 2.0, "b": 3.0})])
    assert (one.value, one.se, one.low, one.why) == (1.75, None, None, "a single item has no standard error")
    same = estimate([Part.of(dict.fromkeys("abcdefgh", 0.1 + 0.2))])
    assert (same.se, same.low, same.clear) == (0.0, None, False) and "equal" in str(same.why)


def test_six_prompts_do_and_clear_is_an_interval_without_0() -> None:
    found = estimate([Part.of(dict(zip("abcdef", [1.0, 2, 1, 2, 1, 2], strict=True)))])
    assert found.low is not None and found.low > 0 and found.clear
    assert not estimate([Part.of(dict(zip("abcdef", [1.0, -2, 1, 2, -1, 2], strict=True)))]).clear
