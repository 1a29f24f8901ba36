"""Accuracy beside its baselines by hand, AUC against scipy, intervals that draw whole groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from eval.reward_models.accuracy import (
    calibrate,
    compare_rights,
    measure_pairs,
    measure_ratings,
    rights_of_pairs,
    rights_of_ratings,
)
from eval.reward_models.bootstrap import auc, draw_weights, mean_interval


def pair(chosen: str, rejected: str, group: str) -> Any:
    return {"chosen": chosen, "rejected": rejected, "group": group, "prompt": group, "lang": "en"}


def rating(response: str, label: int, group: str) -> Any:
    return {"response": response, "label": label, "group": group, "prompt": "", "lang": "en"}


def test_pairs_by_hand() -> None:
    """Right, equal, wrong, right; the longer one is chosen in two of them; one pair is too long to read."""
    rows = [pair("long", "s", "a"), pair("s", "long", "b"), pair("long", "s", "c"), pair("s", "long", "d")]
    scores: Any = [(1.0, 0.0), (0.5, 0.5), (0.0, 2.0), (3.0, 1.0)]
    found = measure_pairs([*rows, pair("a", "b", "e")], [*scores, (None, 1.0)], [pair("long", "s", "t")] * 3)
    assert (found["n"], found["dropped"], found["groups"]) == (4, 1, 4)
    assert found["accuracy"] == 62.5 and found["ties"] == 25 and found["mean_gap"] == pytest.approx(0.25)
    assert found["length"] == 50 and found["length_rule"] == "longer" and found["chance"] == 50
    # right and right, a half and wrong, wrong and right, right and wrong
    assert found["length_agreement"] == pytest.approx(100 * (1 + 0.5 + 0 + 0) / 4)
    assert found["expected_agreement"] == pytest.approx(50) and found["accuracy_interval"] is None
    assert measure_pairs(rows, scores, [])["why"] == {"length": "the data has no training rows in this language"}
    assert measure_pairs(rows, [(None, None)] * 4, [])["why"] == {"accuracy": "no row has a score"}


def test_ratings_by_hand() -> None:
    rows = [rating("xxxx", 1, "a"), rating("xxx", 1, "b"), rating("xx", 0, "c"), rating("x", 0, "d")]
    found = measure_ratings(rows, [2.0, -1.0, -2.0, -3.0], rows)
    assert found["accuracy"] == 75 and found["auc"] == 1 and found["majority"] == 50
    assert found["length"] == 100 and found["length_threshold"] == 3 and found["length_auc"] == 1
    assert found["human_agreement"] == 100 and found["human_pairs"] == 4  # each row is there twice
    one = measure_ratings(rows[:2], [1.0, 2.0], [])
    assert one["auc"] is None and one["accuracy"] == 100


def test_differences_are_paired() -> None:
    first, second = (
        rights_of_pairs([(1, 0), (0, 1), (None, 1), (2, 2)]),
        rights_of_pairs([(1, 0), (1, 0), (1, 0), (0, 1)]),
    )
    assert first[[0, 1, 3]].tolist() == [1, 0, 0.5] and np.isnan(first[2])
    found = compare_rights(first, second, ["a", "b", "c", "d"])
    assert found == {"n": 3, "difference": pytest.approx(100 * (0 + 1 - 0.5) / 3), "difference_interval": None}
    many = compare_rights(np.tile([1.0, 0.0], 20), np.ones(40), [str(n) for n in range(40)])
    assert many["difference"] == 50 and 30 < many["difference_interval"][0] < 50 < many["difference_interval"][1] < 70
    assert compare_rights(first * np.nan, second, ["a", "b", "c", "d"])["n"] == 0
    assert rights_of_ratings([rating("x", 1, "a"), rating("x", 0, "b")], [0.0, None])[0] == 0


def test_calibration_by_hand() -> None:
    """Two pairs at σ = .6, one right and one wrong, and one at σ = .95 that is right."""
    gap = np.log(0.6 / 0.4)
    found = calibrate(np.array([gap, -gap, np.log(0.95 / 0.05)]))
    assert [row["n"] for row in found["reliability"]] == [2, 1]
    assert found["reliability"][0]["sure"] == pytest.approx(0.6) and found["reliability"][0]["right"] == 0.5
    assert found["calibration_error"] == pytest.approx((2 * 0.1 + 0.05) / 3)
    assert calibrate(np.array([0.0, 1e9]))["reliability"][-1] == {"sure": 1.0, "right": 1.0, "n": 1}


def test_auc_is_scipys(seed: int = 3) -> None:
    random = np.random.default_rng(seed)
    scores, labels = random.integers(0, 8, 60).astype(float), random.integers(0, 2, 60)
    theirs = mannwhitneyu(scores[labels == 1], scores[labels == 0]).statistic
    assert auc(scores, labels)[0] == pytest.approx(theirs / (labels.sum() * (1 - labels).sum()), abs=1e-12)
    weights = random.integers(0, 3, (2, 60)).astype(float)
    for n in range(2):
        times = weights[n].astype(int)
        repeated = auc(np.repeat(scores, times), np.repeat(labels, times))[0]
        assert auc(scores, labels, weights)[n] == pytest.approx(repeated, abs=1e-12)
    assert np.isnan(auc([1.0, 2.0], [1, 1])[0])


def test_intervals_draw_whole_groups() -> None:
    """Twenty equal answers to each of ten prompts tell as much as one each; single rows would tell more."""
    random = np.random.default_rng(0)
    values = random.integers(0, 2, 40).astype(float)
    many, groups = np.repeat(values, 20), [str(n) for n in range(40) for _ in range(20)]
    whole = mean_interval(many, draw_weights(groups))
    single = mean_interval(values, draw_weights([str(n) for n in range(40)]))
    apart = mean_interval(many, draw_weights([str(n) for n in range(800)]))
    assert whole == pytest.approx(single) and whole and apart
    assert whole[1] - whole[0] > 3 * (apart[1] - apart[0])
    se = values.std() / np.sqrt(40)
    assert whole == pytest.approx((values.mean() - 1.96 * se, values.mean() + 1.96 * se), abs=0.03)
    assert draw_weights(["a", "b", "c", "d", "e"] * 9) is None
