"""How often a reward model is right in a language, beside what knows nothing of the responses but their length.

Rates are percent; AUC is from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.reward_models.baselines import (
    CHANCE,
    LengthRule,
    expected_agreement,
    fit_pair_rule,
    fit_rating_rule,
    human_agreement,
    majority_share,
)
from eval.reward_models.bootstrap import Floats, Interval, auc, draw_weights, interval_of, mean_interval
from icr.base.fields import Fields
from prompts.preferences.rows import PairRow, RatingRow

Score = float | None
"""None: the response is longer than the model reads."""
NO_TRAINING = "the data has no training rows in this language"
NO_SCORE = "no row has a score"


def rights_of_pairs(scores: Sequence[tuple[Score, Score]]) -> Floats:
    """Of each pair 1 where the chosen response scores higher, 0 where lower, 0.5 for equal; NaN without a score."""
    gaps = np.array([np.nan if c is None or r is None else c - r for c, r in scores], dtype=np.float64)
    return 0.5 + 0.5 * np.sign(gaps)


def rights_of_ratings(rows: Sequence[RatingRow], scores: Sequence[Score]) -> Floats:
    """Of each rating 1 where r > 0 for label 1 or r ≤ 0 for label 0, else 0; NaN without a score."""
    return np.array(
        [np.nan if s is None else float((s > 0) == bool(row["label"])) for row, s in zip(rows, scores, strict=True)],
        dtype=np.float64,
    )


def compare_rights(first: Floats, second: Floats, groups: Sequence[str], seed: int = 0) -> Fields:
    """Second minus first accuracy in percent, over the rows that both have scored, by a bootstrap over groups.

    Args:
        first, second: of `rights_of_pairs` or `rights_of_ratings`, on the same rows.
        groups: of the rows.
    """
    both = np.isfinite(first) & np.isfinite(second)
    if not both.any():
        return {"n": 0, "why": {"difference": NO_SCORE}}
    weights = draw_weights([group for group, there in zip(groups, both, strict=True) if there], seed)
    return {"n": int(both.sum()), **rate_of("difference", (second - first)[both], weights)}


def agree_on(one: Floats, other: Floats, groups: Sequence[str], seed: int = 0) -> Fields:
    """How often two rows of a table say the same of an instance, over those on which both say something.

    Of two answers to choose from, two rows that are both right or both wrong have chosen the same one; a tie is half.
    `expected` is how often two independent ones of these accuracies would.

    Args:
        one, other: 1 right, 0 wrong, 0.5 for a tie, NaN for nothing, of the same instances.
        groups: of the instances.
    """
    both = np.isfinite(one) & np.isfinite(other)
    if not both.any():
        return {"n": 0, "why": {"agreement": NO_SCORE}}
    a, b = one[both], other[both]
    weights = draw_weights([group for group, there in zip(groups, both, strict=True) if there], seed)
    expected = 100 * expected_agreement(float(a.mean()), float(b.mean()))
    return {"n": int(both.sum()), **rate_of("agreement", a * b + (1 - a) * (1 - b), weights), "expected": expected}


def calibrate(gaps: Floats, bins: int = 10) -> Fields:
    """Whether σ(|Δr|), how sure a pairwise model is of its choice, is how often it is right.

    Args:
        gaps: Δr, chosen minus rejected, of each pair.

    Returns:
        `reliability`, a row for each of `bins` equal parts of 0.5…1 that has pairs (mean σ, share right, pairs), and
        `calibration_error`, the mean of |σ − right| over the pairs' parts.
    """
    sure, right = 1 / (1 + np.exp(-np.abs(gaps))), 0.5 + 0.5 * np.sign(gaps)
    part = np.minimum((2 * bins * (sure - 0.5)).astype(np.int64), bins - 1)
    rows = [
        {"sure": float(sure[part == n].mean()), "right": float(right[part == n].mean()), "n": int((part == n).sum())}
        for n in np.unique(part)
    ]
    error = sum(row["n"] * abs(row["sure"] - row["right"]) for row in rows) / len(gaps)
    return {"reliability": rows, "calibration_error": error}


def measure_pairs(
    rows: Sequence[PairRow], scores: Sequence[tuple[Score, Score]], train: Sequence[PairRow], seed: int = 0
) -> Fields:
    """One model on the pairs of one language.

    Args:
        scores: (chosen, rejected) of each row.
        train: training pairs of the language, for the length baseline.
        seed: of the bootstrap.
    """
    kept = [(row, c, r) for row, (c, r) in zip(rows, scores, strict=True) if c is not None and r is not None]
    facts: Fields = {"kind": "pairs", "n": len(kept), "dropped": len(rows) - len(kept), "chance": 100 * CHANCE}
    if not kept:
        return facts | {"why": {"accuracy": NO_SCORE}}
    gaps = np.array([chosen - rejected for _, chosen, rejected in kept])
    right = rights_of_pairs([(chosen, rejected) for _, chosen, rejected in kept])
    weights = draw_weights([row["group"] for row, _, _ in kept], seed)
    facts |= {
        "groups": len({row["group"] for row, _, _ in kept}),
        **rate_of("accuracy", right, weights),
        "ties": 100 * float(np.mean(gaps == 0)),
        "mean_gap": float(gaps.mean()),
        **calibrate(gaps),
    }
    if not train:
        return facts | {"why": {"length": NO_TRAINING}}
    rule = fit_pair_rule(train)
    by_length = np.array([rule.prefers(row["chosen"], row["rejected"]) for row, _, _ in kept])
    return facts | beside_length(right, by_length, weights, rule)


def measure_ratings(
    rows: Sequence[RatingRow], scores: Sequence[Score], train: Sequence[RatingRow], seed: int = 0
) -> Fields:
    """One model on the ratings of one language: r > 0 means good. AUC needs no threshold.

    Args:
        scores: of each row.
        train: training ratings of the language, for the length baseline and human agreement.
        seed: of the bootstrap.
    """
    kept = [(row, score) for row, score in zip(rows, scores, strict=True) if score is not None]
    facts: Fields = {"kind": "ratings", "n": len(kept), "dropped": len(rows) - len(kept), "chance": 100 * CHANCE}
    if not kept:
        return facts | {"why": {"accuracy": NO_SCORE}}
    labels = [row["label"] for row, _ in kept]
    values = np.array([score for _, score in kept])
    right = rights_of_ratings([row for row, _ in kept], [score for _, score in kept])
    weights = draw_weights([row["group"] for row, _ in kept], seed)
    lengths = np.array([len(row["response"]) for row, _ in kept], dtype=np.float64)
    people = human_agreement([*train, *rows])
    facts |= {
        "groups": len({row["group"] for row, _ in kept}),
        **rate_of("accuracy", right, weights),
        "majority": 100 * majority_share(labels),
        **_auc("auc", values, labels, weights),
        "human_agreement": None if people is None else 100 * people.share,
        "human_pairs": 0 if people is None else people.pairs,
    }
    if not train:
        return facts | {"why": {"length": NO_TRAINING}}
    rule = fit_rating_rule(train)
    by_length = np.array([float(rule.label(row["response"]) == row["label"]) for row, _ in kept])
    directed = lengths if rule.longer else -lengths
    return facts | _auc("length_auc", directed, labels, weights) | beside_length(right, by_length, weights, rule)


def beside_length(right: Floats, by_length: Floats, weights: Floats | None, rule: LengthRule) -> Fields:
    """The length baseline, and how often the model agrees with it: right together or wrong together."""
    agree = right * by_length + (1 - right) * (1 - by_length)
    expected = expected_agreement(float(right.mean()), float(by_length.mean()))
    threshold = rule.threshold if rule.threshold is not None and np.isfinite(rule.threshold) else None
    return {
        **rate_of("length", by_length, weights),
        "length_rule": "longer" if rule.longer else "shorter",
        "length_threshold": threshold,
        **rate_of("above_length", right - by_length, weights),
        **rate_of("length_agreement", agree, weights),
        "expected_agreement": 100 * expected,
    }


def rate_of(name: str, shares: Floats, weights: Floats | None) -> Fields:
    """The mean of shares from 0 to 1 in percent, with its interval; weights are those of `draw_weights`."""
    interval = mean_interval(100 * shares, weights)
    return {name: 100 * float(shares.mean()), f"{name}_interval": _plain(interval)}


def _auc(name: str, scores: Floats, labels: Sequence[int], weights: Floats | None) -> Fields:
    value = float(auc(scores, labels)[0])
    if not np.isfinite(value):
        return {name: None, f"{name}_interval": None}
    interval = None if weights is None else interval_of(auc(scores, labels, weights))
    return {name: value, f"{name}_interval": _plain(interval)}


def _plain(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)
