"""The pure parts of the transfer benchmark: the property, the pairs, the AUC with ties, and the bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks.transfer_measures import (
    closest_pairs,
    concordance,
    mean,
    prompt_pairs,
    ratio,
    within_prompt_auc,
)
from benchmarks.transfer_runs import Model, Size, alignment_pairs, split_prompts
from eval.layout import is_laid_out


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("Uno solo.", False),
        ("Первый абзац.\n\nВторой.", True),
        ("- uno\n- dos", True),
        ("  Ein Satz, dann nur Leerraum. \n\n ", False),
        ("", False),
    ],
)
def test_a_response_is_laid_out_when_it_has_a_second_line(response: str, expected: bool) -> None:
    assert is_laid_out(response) is expected


@pytest.mark.parametrize("laid_out", [True, False])
def test_an_empty_response_has_no_layout(laid_out: bool) -> None:
    model = Model("unused.gguf", laid_out=laid_out)
    assert not model.has(" \n")
    assert (model.has("Two\nlines."), model.has("One block.")) == (laid_out, not laid_out)


def test_concordance_counts_a_tie_half() -> None:
    assert concordance([3, 1, 1, 0], [True, True, False, False]) == (3.5, 4)


def test_concordance_of_like_lengths_leaves_out_the_others() -> None:
    # 100 against 95 is within a tenth, 100 against 50 is not
    assert concordance([2, 1, 3], [True, False, False], [100, 95, 50]) == (1.0, 1)


scored = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=12)


@given(scored)
def test_auc_of_one_prompt_is_the_mann_whitney_statistic(rows: list[tuple[int, bool]]) -> None:
    scores, labels = [score for score, _ in rows], [label for _, label in rows]
    auc = within_prompt_auc([prompt_pairs(scores, labels, ["p"] * len(rows))]).value
    good = [s for s, label in rows if label]
    bad = [s for s, label in rows if not label]
    if good and bad:
        assert auc == pytest.approx(stats.mannwhitneyu(good, bad).statistic / (len(good) * len(bad)))
    else:
        assert math.isnan(auc)


def test_auc_compares_only_within_a_prompt() -> None:
    # across prompts the scores of b beat those of a; within each, the property is ranked first
    auc = within_prompt_auc([prompt_pairs([2, 1, 12, 11], [True, False, True, False], ["a", "a", "b", "b"])])
    assert (auc.value, auc.low, auc.high) == (1.0, 1.0, 1.0)


def test_auc_of_several_languages_draws_a_prompts_pairs_together() -> None:
    # each prompt is right in one language and wrong in the other: every draw of prompts gives one half
    auc = within_prompt_auc([{"a": (1.0, 1), "b": (0.0, 1)}, {"a": (0.0, 1), "b": (1.0, 1)}])
    assert (auc.value, auc.low, auc.high) == (0.5, 0.5, 0.5)


def test_mean_agrees_with_scipys_bootstrap() -> None:
    values = np.random.default_rng(1).normal(0.3, 1, 40)
    ours = mean(values)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=2).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_ratio_pools_before_it_divides() -> None:
    found = ratio([1.0, 0.0], [1, 9])
    assert found.value == pytest.approx(0.1)
    assert (found.low, found.high) == (0.0, 1.0)


def test_pairs_are_disjoint_and_nearest_in_length() -> None:
    labels = [True, False, True, False, False]
    lengths = [100, 60, 40, 98, 41]
    assert closest_pairs(labels, lengths, 5) == [(2, 4), (0, 3)]
    assert closest_pairs(labels, lengths, 1) == [(2, 4)]
    assert closest_pairs([True, True], [1, 2], 2) == []


def test_alignment_pairs_choose_the_property() -> None:
    rows = [
        {"prompt_id": "a", "prompt": "A?", "response": "One block.", "token_ids": [1, 2, 3]},
        {"prompt_id": "a", "prompt": "A?", "response": "Two\nlines.", "token_ids": [1, 2]},
        {"prompt_id": "b", "prompt": "B?", "response": "Only blocks.", "token_ids": [1]},
        {"prompt_id": "c", "prompt": "C?", "response": "Two\nlines.", "token_ids": [1, 2]},
        {"prompt_id": "c", "prompt": "C?", "response": " ", "token_ids": [1, 2]},
    ]
    assert alignment_pairs(rows, is_laid_out, 2) == [
        {"prompt": "A?", "chosen": "Two\nlines.", "rejected": "One block."}
    ]


def test_alignment_icr_and_heldout_prompts_are_disjoint() -> None:
    size = Size(aligned=72, prompts=24, heldout=32, base_samples=8, samples=6, heldout_samples=3)
    parts = split_prompts(size)
    texts = {part: [row["instruction"] for row in prompts["en"]] for part, prompts in parts.items()}
    assert [len(texts[part]) for part in ("align", "train", "heldout")] == [72, 24, 32]
    assert len(set().union(*texts.values())) == 72 + 24 + 32
    for part in ("train", "heldout"):
        ids = [[row["id"] for row in rows] for rows in parts[part].values()]
        assert all(of_lang == ids[0] for of_lang in ids)
