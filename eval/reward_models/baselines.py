"""What the accuracy of a reward model is set beside: chance, the majority, length, and how far people agree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from prompts.preferences.rows import PairRow, RatingRow

CHANCE = 0.5


def majority_share(labels: Sequence[int]) -> float:
    """Accuracy of the label that is more frequent. ValueError where there are none."""
    if not labels:
        raise ValueError("no labels")
    share = sum(labels) / len(labels)
    return max(share, 1 - share)


@dataclass(frozen=True)
class LengthRule:
    """The length baseline. Pairs: the longer response is the better one, or the shorter. Ratings: a response of at
    least `threshold` characters is good, or one of fewer."""

    longer: bool
    threshold: float | None = None
    """Characters, of ratings; infinite where every response gets one label."""

    def prefers(self, chosen: str, rejected: str) -> float:
        """1: the chosen response, 0: the rejected one; 0.5 for equal lengths."""
        gap = len(chosen) - len(rejected)
        return 0.5 + 0.5 * ((gap > 0) - (gap < 0)) * (1 if self.longer else -1)

    def label(self, response: str) -> int:
        """1 where the rule calls a response good."""
        assert self.threshold is not None
        return int((len(response) >= self.threshold) == self.longer)


def fit_pair_rule(train: Sequence[PairRow]) -> LengthRule:
    """The direction that is right more often on training pairs; the longer one where neither is."""
    longer = LengthRule(longer=True)
    return LengthRule(longer=float(np.mean([longer.prefers(row["chosen"], row["rejected"]) for row in train])) >= 0.5)


def fit_rating_rule(train: Sequence[RatingRow]) -> LengthRule:
    """Direction and threshold with the highest accuracy on training ratings, by trying all of them.

    Of several: the longer response as the good one, then the highest threshold.
    """
    lengths = np.array([len(row["response"]) for row in train], dtype=np.float64)
    labels = np.array([row["label"] for row in train], dtype=np.int64)
    thresholds = np.append(np.unique(lengths), np.inf)
    order = np.argsort(lengths, kind="stable")
    below = np.searchsorted(lengths[order], thresholds)  # responses shorter than each threshold
    good_below = np.concatenate([[0], np.cumsum(labels[order])])[below]
    right = (below - good_below) + (int(labels.sum()) - good_below)  # bad ones below, good ones from there on
    rights = {True: right, False: len(labels) - right}
    longer = bool(rights[True].max() >= rights[False].max())
    best = np.flatnonzero(rights[longer] == rights[longer].max())
    return LengthRule(longer, float(thresholds[best[-1]]))


def expected_agreement(a: float, b: float) -> float:
    """How often two independent raters of accuracies a and b agree: a·b + (1 − a)(1 − b)."""
    return a * b + (1 - a) * (1 - b)


@dataclass(frozen=True)
class HumanAgreement:
    """How often two annotations of one response have the same label."""

    share: float
    pairs: int
    """Of annotations."""


def human_agreement(ratings: Sequence[RatingRow]) -> HumanAgreement | None:
    """Over all pairs of annotations of one response (same group, prompt and text); None where no response has two."""
    items: defaultdict[tuple[str, str, str, str], list[int]] = defaultdict(list)
    for row in ratings:
        items[row["lang"], row["group"], row["prompt"], row["response"]].append(row["label"])
    pairs = sum(comb(len(labels), 2) for labels in items.values())
    alike = sum(comb(sum(labels), 2) + comb(len(labels) - sum(labels), 2) for labels in items.values())
    return HumanAgreement(alike / pairs, pairs) if pairs else None
