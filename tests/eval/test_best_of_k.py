"""What the best of k is worth: means, bounds and intervals against hand calculations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from eval.best_of_k import sizes_up_to, summarise_best, summarise_wins


def test_sizes_are_powers_of_two_and_n() -> None:
    assert sizes_up_to(64) == [1, 2, 4, 8, 16, 32, 64] and sizes_up_to(6) == [1, 2, 4, 6]
    assert sizes_up_to(8, 3) == [1, 2, 3, 4, 8] and sizes_up_to(2, 1) == [1, 2]


def test_expected_scores_of_two_prompts() -> None:
    """Of 1, 2, 6 the best of two is 2 or 6 or 6; of 0, 0, 3 it is 0 or 3 or 3."""
    rows = summarise_best({"es": {"a": [2.0, 6.0, 1.0], "b": [0.0, 0.0, 3.0]}}, 3, 3)
    assert [row["k"] for row in rows] == [1, 2, 3]
    assert [row["average"]["score"] for row in rows] == pytest.approx([(3 + 1) / 2, (14 / 3 + 2) / 2, (6 + 3) / 2])
    assert [row["kl_bound"] for row in rows] == pytest.approx([0, math.log(2) - 1 / 2, math.log(3) - 2 / 3])
    assert rows[0]["languages"]["es"]["n"] == 2 and rows[0]["average"]["score_interval"] is None
    assert "too few" in rows[0]["average"]["why"]["score_interval"]


def test_intervals_are_over_prompts() -> None:
    """A prompt is one draw in all its languages: the t interval of the prompts' means."""
    draws = np.random.default_rng(0).normal(size=(2, 8, 4))
    scores = {lang: {f"p{n}": draws[at, n].tolist() for n in range(8)} for at, lang in enumerate(("es", "ru"))}
    last = summarise_best(scores, 4, 4)[-1]
    best = draws.max(axis=2)
    for at, lang in enumerate(("es", "ru")):
        assert last["languages"][lang]["score"] == pytest.approx(best[at].mean())
    each = best.mean(axis=0)
    low, high = stats.t.interval(0.95, 7, each.mean(), stats.sem(each))
    assert last["average"]["score"] == pytest.approx(each.mean())
    assert last["average"]["score_interval"] == pytest.approx([low, high])


def test_prompts_without_a_score_are_left_out_and_languages_without_one_have_no_average() -> None:
    rows = summarise_best({"es": {"a": [1.0, None], "b": [None, None]}, "ru": {"a": [None, None]}}, 2, 2)
    assert rows[1]["languages"]["es"]["score"] == 1.0 and rows[1]["languages"]["es"]["n"] == 1
    assert rows[1]["languages"]["ru"]["score"] is None and rows[1]["languages"]["ru"]["n"] == 0
    assert rows[1]["average"]["score"] is None and rows[1]["average"]["why"]["score"] == "missing for ru"


def test_expected_win_rates_are_in_percent_and_within_bounds() -> None:
    """A judge of the reward's mind: the best of all wins always, the best of one as often as any candidate."""
    prompts = [f"p{n}" for n in range(8)]
    scores = {lang: {id: [0.0, 1.0, 2.0, 3.0] for id in prompts} for lang in ("es", "ru")}
    wins = {lang: {id: [0.0, 0.0, 1.0, 1.0] for id in prompts} for lang in ("es", "ru")}
    rows = summarise_wins(scores, wins, 4, 4)
    assert [row["k"] for row in rows] == [1, 2, 4]
    assert [row["average"]["win_rate"] for row in rows] == pytest.approx([50, 100 * 5 / 6, 100])
    assert rows[0]["languages"]["ru"]["n"] == 8
    low, high = rows[-1]["average"]["win_rate_interval"]
    assert low < 100 and high == 100
    wins["ru"] = {id: [None] * 4 for id in prompts}
    row = summarise_wins(scores, wins, 4, 4)[0]
    assert row["average"]["win_rate"] is None and row["average"]["why"]["win_rate"] == "missing for ru"
    assert row["languages"]["ru"]["why"]["win_rate"] == "no candidate with a score has a verdict"
