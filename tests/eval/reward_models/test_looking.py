"""The figures of `icr rm look`, each against a hand calculation or another library."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from eval.reward_models.bag_of_words import (
    count_words,
    explain_scores,
    fit_words,
    predict_held_out,
    r_squared,
)
from eval.reward_models.features import Rate, compare_features, read_features, read_rates
from eval.reward_models.spaces import (
    cka_distance,
    cosine_distance,
    describe_norms,
    effective_rank,
    largest_share,
    norm_distance,
    relative_frobenius,
    retrieval,
)
from icr.base.errors import ConfigError, UserError

RNG = np.random.default_rng(3)


def test_the_regressor_is_the_least_squares_solution_with_a_penalty() -> None:
    """Against numpy's lstsq on rows that stand for the penalty, with a column for the intercept."""
    texts = ["a b b", "b c", "a a c", "c", "a b c c", "b"]
    counts, y = count_words(texts, fewest=1), np.array([1.0, -2.0, 0.5, 3.0, 0.0, -1.0])
    assert counts.words == ["b", "c", "a"] and counts.table.toarray()[0].tolist() == [2, 0, 1]
    weights, intercept = fit_words(counts.table, y, penalty=0.7)
    x = np.c_[counts.table.toarray(), np.ones(6)]
    rows = np.r_[x, np.c_[np.sqrt(0.7) * np.eye(3), np.zeros(3)]]
    expected = np.linalg.lstsq(rows, np.r_[y, np.zeros(3)], rcond=None)[0]
    assert [*weights, intercept] == pytest.approx(expected, abs=1e-9)
    predicted = x @ expected
    assert r_squared(y, predicted) == pytest.approx(1 - ((y - predicted) ** 2).sum() / (6 * y.var()), abs=1e-9)
    assert r_squared(y, np.full(6, y.mean())) == pytest.approx(0)
    with pytest.raises(ValueError, match="equal"):
        r_squared(np.ones(3), np.ones(3))


def test_words_that_explain_scores_are_found_and_noise_is_not() -> None:
    pool = ["sun", "rain", "wind", "snow", "fog", "hail"]
    bags = [RNG.choice(pool, 8).tolist() for _ in range(200)]
    texts = [" ".join(bag) for bag in bags]
    scores = [2.0 * bag.count("sun") - bag.count("fog") + 0.01 * RNG.standard_normal() for bag in bags]
    groups = [f"g{n // 2}" for n in range(200)]
    found = explain_scores(texts, scores, groups)
    assert found["words"] == 6 and found["r2"] > 0.999 and found["r2_held_out"] > 0.999
    assert found["raising"][0]["word"] == "sun" and found["lowering"][0]["word"] == "fog"
    counts = np.array([bag.count("sun") for bag in bags])
    assert found["raising"][0]["effect"] == pytest.approx(found["raising"][0]["weight"] * counts.std(), abs=1e-9)
    lengths = np.array([len(text) for text in texts])
    assert found["r2_length"] == pytest.approx(stats.pearsonr(lengths, scores).statistic ** 2, abs=1e-9)
    noise = explain_scores(texts, RNG.standard_normal(200).tolist(), groups)
    assert noise["r2"] > 0 > noise["r2_held_out"]
    assert explain_scores(texts[:6], scores[:6], groups[:6])["why"]["r2"] == "3 text groups are too few"
    assert explain_scores(texts, [1.0] * 200, groups)["why"]["r2"] == "all scores are equal"


def test_a_text_is_predicted_without_its_group() -> None:
    """Every group has a word of its own, so that nothing can be known of it."""
    groups = [f"g{n}" for n in range(10) for _ in range(6)]
    texts = [f"word{group}" for group in groups]
    scores = np.array([float(group[1:]) for group in groups])
    counts = count_words(texts)
    weights, intercept = fit_words(counts.table, scores)
    assert r_squared(scores, counts.table @ weights + intercept) > 0.9
    held = predict_held_out(counts.table, scores, groups)
    assert r_squared(scores, held) < 0.1
    with pytest.raises(ValueError, match="groups"):
        predict_held_out(counts.table, scores, ["one"] * 60)


def test_shares_of_singular_values() -> None:
    h = np.array([[3.0, 0.0], [0.0, 1.0]])
    assert largest_share(h) == pytest.approx(0.75, abs=1e-9)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_rank(h) == pytest.approx(math.exp(entropy), abs=1e-9)
    states = RNG.standard_normal((7, 4))
    sizes = torch.linalg.svdvals(torch.tensor(states)).numpy()
    assert largest_share(states) == pytest.approx(sizes[0] / sizes.sum(), abs=1e-9)
    assert effective_rank(np.ones((5, 3))) == pytest.approx(1, abs=1e-6) and effective_rank(np.eye(4)) == pytest.approx(
        4
    )
    assert math.isnan(largest_share(np.zeros((3, 2)))) and math.isnan(effective_rank(np.zeros((3, 2))))


def test_distances_to_the_base() -> None:
    base, moved = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[1.0, 1.0], [0.0, 2.0]])
    assert relative_frobenius(moved, base) == pytest.approx(1 / math.sqrt(5), abs=1e-9)
    assert cosine_distance(moved, base) == pytest.approx(1 - (1 / math.sqrt(2) + 1) / 2, abs=1e-9)
    for n, d in ((5, 9), (9, 4)):  # over texts, and over dimensions
        a, b = RNG.standard_normal((n, d)), RNG.standard_normal((n, d))
        x, y = a - a.mean(0), b - b.mean(0)
        cka = np.trace(x @ x.T @ y @ y.T) / math.sqrt(np.trace(x @ x.T @ x @ x.T) * np.trace(y @ y.T @ y @ y.T))
        assert cka_distance(a, b) == pytest.approx(1 - cka, abs=1e-9)
        turned = np.linalg.qr(RNG.standard_normal((d, d)))[0]
        assert cka_distance(a, 3 * a @ turned + 1) == pytest.approx(0, abs=1e-9)
    assert math.isnan(cka_distance(np.ones((3, 2)), base[[0, 1, 0]]))


def test_translations_are_found_by_cosine() -> None:
    a = np.eye(3)
    b = np.array([[1.0, 0.1, 0.0], [1.0, 0.9, 0.0], [0.0, 0.0, 5.0]])
    # rows: 0 → 0, 1 → 1, 2 → 2; back: 0 → 0, 1 → 0, 2 → 2
    assert retrieval(a, b) == pytest.approx((1 + 2 / 3) / 2, abs=1e-9)
    assert retrieval(np.ones((4, 2)), np.ones((4, 2))) == pytest.approx(0.25)  # a collapsed space finds nothing


def test_norms_and_their_distance() -> None:
    one, other = np.array([0.0, 1.0, 3.0]), np.array([5.0, 6.0, 8.0])
    assert norm_distance(one, other) == pytest.approx(5, abs=1e-9)
    found = describe_norms(one)
    assert found["mean"] == pytest.approx(4 / 3) and found["sd"] == pytest.approx(one.std()) and found["p50"] == 1
    assert norm_distance(one, one[::-1]) == 0


def test_groups_of_rates_by_features() -> None:
    values = {("de", "en"): 60.0, ("en", "de"): 62.0, ("de", "ru"): 50.0, ("ru", "de"): 51.0, ("en", "ru"): 55.0,
              ("ru", "en"): 49.0}  # fmt: skip
    rates = [Rate(*pair, value) for pair, value in values.items()]
    noise = [Rate("de", "de", 99.0), Rate("de+en", "ru", 99.0)]  # in itself, and a pool
    features = {"de": {"script": "Latn"}, "en": {"script": "Latn"}, "ru": {"script": "Cyrl"}}
    same, cyrillic, latin = compare_features([*rates, *noise], features)
    assert (same["group"], cyrillic["group"], latin["group"]) == ("same", "Cyrl", "Latn")
    expected = stats.ttest_ind([60.0, 62.0], [50.0, 51.0, 55.0, 49.0], equal_var=False, alternative="greater")
    assert (same["n"], same["n_others"], same["mean"]) == (2, 4, 61.0)
    # by hand: (61 − 51.25) / √(2/2 + 6.9167/4)
    assert same["t"] == pytest.approx((61 - 51.25) / math.sqrt(1 + 83 / 48), abs=1e-9)
    assert same["p"] == pytest.approx(expected.pvalue, abs=1e-12)
    assert same["p_bonferroni"] == pytest.approx(3 * expected.pvalue) and cyrillic["p_bonferroni"] == 1.0
    assert latin["p"] == pytest.approx(1 - cyrillic["p"])
    few = compare_features(rates[:1], features)[0]
    assert few["p"] is None and few["p_bonferroni"] is None and few["why"]["p"] == "each group needs two rates"
    with pytest.raises(UserError, match="no features for ru"):
        compare_features(rates, {lang: features[lang] for lang in ("de", "en")})


def test_tables_of_features_and_rates_say_what_is_wrong(tmp_path: Path) -> None:
    good = tmp_path / "f.csv"
    good.write_text("language,script\nde,Latn\nru,Cyrl\n")
    assert read_features(str(good)) == {"de": {"script": "Latn"}, "ru": {"script": "Cyrl"}}
    good.write_text("language,script\nde,Latn\nde,\n")
    with pytest.raises(ConfigError) as caught:
        read_features(str(good))
    assert (
        f"{good}:3" in str(caught.value)
        and "appears twice" in str(caught.value)
        and "no value for script" in str(caught.value)
    )
    rates = tmp_path / "r.csv"
    rates.write_text("source,target,win_rate\nde,ru,55.5\nru,de,\n")
    assert read_rates(str(rates), "win_rate") == [Rate("de", "ru", 55.5)]
    rates.write_text("source,target,win_rate\nde,ru,high\n")
    with pytest.raises(ConfigError, match="win_rate is not a number: high"):
        read_rates(str(rates), "win_rate")
    for text, what in (
        ("source,target\n", "column win_rate is missing"),
        ("source,target,win_rate\na,b\n", "too few fields"),
    ):
        rates.write_text(text)
        with pytest.raises(UserError, match=what):
            read_rates(str(rates), "win_rate")
    with pytest.raises(UserError, match="not found"):
        read_rates(str(tmp_path / "none.csv"), "win_rate")
