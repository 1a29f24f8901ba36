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
    right = 0.5 + 0.5 * np.sign(gaps)
    weights = draw_weights([row["group"] for row, _, _ in kept], seed)
    facts |= {
        "groups": len({row["group"] for row, _, _ in kept}),
        **_rate("accuracy", right, weights),
        "ties": 100 * float(np.mean(gaps == 0)),
        "mean_gap": float(gaps.mean()),
    }
    if not train:
        return facts | {"why": {"length": NO_TRAINING}}
    rule = fit_pair_rule(train)
    by_length = np.array([rule.prefers(row["chosen"], row["rejected"]) for row, _, _ in kept])
    return facts | _beside_length(right, by_length, weights, rule)


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
    right = ((values > 0) == np.array(labels, dtype=bool)).astype(np.float64)
    weights = draw_weights([row["group"] for row, _ in kept], seed)
    lengths = np.array([len(row["response"]) for row, _ in kept], dtype=np.float64)
    people = human_agreement([*train, *rows])
    facts |= {
        "groups": len({row["group"] for row, _ in kept}),
        **_rate("accuracy", right, weights),
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
    return facts | _auc("length_auc", directed, labels, weights) | _beside_length(right, by_length, weights, rule)


def _beside_length(right: Floats, by_length: Floats, weights: Floats | None, rule: LengthRule) -> Fields:
    """The length baseline, and how often the model agrees with it: right together or wrong together."""
    agree = right * by_length + (1 - right) * (1 - by_length)
    expected = expected_agreement(float(right.mean()), float(by_length.mean()))
    threshold = rule.threshold if rule.threshold is not None and np.isfinite(rule.threshold) else None
    return {
        **_rate("length", by_length, weights),
        "length_rule": "longer" if rule.longer else "shorter",
        "length_threshold": threshold,
        **_rate("above_length", right - by_length, weights),
        **_rate("length_agreement", agree, weights),
        "expected_agreement": 100 * expected,
    }


def _rate(name: str, shares: Floats, weights: Floats | None) -> Fields:
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
