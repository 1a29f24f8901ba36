"""What the accuracy of a reward model is set beside: chance, the majority, length, and how far people agree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray

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

    Of several, the one that gives more responses the majority's label.
    """
    lengths = np.array([len(row["response"]) for row in train], dtype=np.float64)
    labels = np.array([row["label"] for row in train], dtype=np.int64)
    thresholds = np.append(np.unique(lengths), np.inf)
    order = np.argsort(lengths, kind="stable")
    below = np.searchsorted(lengths[order], thresholds)  # responses shorter than each threshold
    good_below = np.concatenate([[0], np.cumsum(labels[order])])[below]
    good, n = int(labels.sum()), len(labels)
    right_longer = (below - good_below) + (good - good_below)  # bad ones below and good ones from there on
    rights: dict[bool, NDArray[np.int64]] = {True: right_longer, False: n - right_longer}
    majority = good * 2 >= n

    def rank(longer: bool, i: int) -> tuple[int, int]:
        called_good = n - int(below[i]) if longer else int(below[i])
        return int(rights[longer][i]), called_good if majority else n - called_good

    longer, i = max(((way, i) for way in (True, False) for i in range(len(thresholds))), key=lambda key: rank(*key))
    return LengthRule(longer, float(thresholds[i]))


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
