"""Baselines by hand, and those of published data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from eval.reward_models.baselines import (
    LengthRule,
    expected_agreement,
    fit_pair_rule,
    fit_rating_rule,
    human_agreement,
    majority_share,
)
from prompts.preferences.forms import Options, read_preferences
from tests.helpers.published import RM, SEAHORSE, needs_rm


def rating(length: int, label: int, group: str = "g") -> Any:
    return {"response": "x" * length, "label": label, "group": group, "prompt": "", "lang": "en"}


def test_length_rules_by_hand() -> None:
    assert LengthRule(True).prefers("long", "s") == 1 and LengthRule(False).prefers("long", "s") == 0
    assert LengthRule(True).prefers("ab", "cd") == 0.5
    rule = fit_rating_rule([rating(1, 0), rating(2, 0), rating(3, 1), rating(4, 1), rating(5, 0)])
    assert rule == LengthRule(True, 3.0) and [rule.label("x" * n) for n in (2, 3, 9)] == [0, 1, 1]
    assert fit_rating_rule([rating(1, 1), rating(5, 0)]) == LengthRule(False, 5.0)
    assert fit_rating_rule([rating(1, 0), rating(5, 0)]) == LengthRule(True, np.inf)
    pairs: Any = [
        {"chosen": "a", "rejected": "bb"},
        {"chosen": "aa", "rejected": "b"},
        {"chosen": "a", "rejected": "bb"},
    ]
    assert fit_pair_rule(pairs) == LengthRule(False)


def test_agreement_by_hand() -> None:
    assert expected_agreement(0.6, 0.7) == pytest.approx(0.42 + 0.12)
    rows = [rating(1, 1), rating(1, 1), rating(1, 0), rating(2, 1), rating(2, 1), rating(3, 0)]
    found = human_agreement(rows)
    assert found is not None and found.pairs == 4 and found.share == pytest.approx(2 / 4)
    assert human_agreement(rows[-1:]) is None
    assert majority_share([1, 0, 0]) == pytest.approx(2 / 3)


@needs_rm
def test_seahorse_has_the_published_baselines() -> None:
    """Majority (Table 18 of arXiv 2404.12318), length and human agreement of question 6.

    In German several thresholds are equally good in training, and give 56.6 to 57.7 here.
    """
    read = {
        (part, lang): read_preferences(str(RM / "seahorse" / f"{part}.{name}.tsv"), Options()).ratings
        for lang, name in SEAHORSE.items()
        for part in ("validation", "duplicates_train")
    }
    more = read_preferences(str(RM / "seahorse" / "duplicates_validation.tsv"), Options()).ratings
    majorities, lengths, people = [], [], []
    for lang in SEAHORSE:
        held, train = read["validation", lang], read["duplicates_train", lang]
        groups = {row["group"] for row in held}
        rule = fit_rating_rule([row for row in train if row["group"] not in groups])
        majorities.append(100 * majority_share([row["label"] for row in held]))
        lengths.append(100 * np.mean([rule.label(row["response"]) == row["label"] for row in held]))
        found = human_agreement([*train, *(row for row in more if row["lang"] == lang)])
        assert found is not None
        people.append(100 * found.share)
    assert majorities == pytest.approx([53.0, 59.5, 63.3, 55.8, 56.2, 67.9], abs=0.05)
    assert lengths[1:] == pytest.approx([57.5, 63.3, 55.8, 56.2, 67.9], abs=0.05)
    assert lengths[0] == pytest.approx(56.8, abs=0.2)
    assert people == pytest.approx([67.7, 65.3, 64.7, 75.3, 75.9, 72.8], abs=0.05)
