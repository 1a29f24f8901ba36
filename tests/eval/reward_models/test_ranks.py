"""Ranks and their agreement, on the published tables of arXiv 2404.12318."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from eval.reward_models.baselines import expected_agreement
from eval.reward_models.ranks import order_agreement, rank_sources, ranking_agreement, transfer_mean
from tests.helpers.published import RM, needs_rm


def tables() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RM / "paper" / "rmt_tables.json").read_text())["tables"]
    return found


def test_ranks_by_hand() -> None:
    assert rank_sources([[1.0, 3.0], [2.0, 3.0], [0.0, 1.0]]).tolist() == [[2, 1], [1, 1], [3, 3]]
    assert ranking_agreement([[1, 1], [2, 2], [3, 3]], [[1, 3], [2, 2], [3, 1]]).tolist() == pytest.approx([1, -1])
    assert order_agreement([[1.0], [2.0], [3.0]], [[1.0], [3.0], [2.0]]) == pytest.approx(2 / 3)
    assert order_agreement([[1.0], [1.0]], [[1.0], [2.0]]) == 0 and order_agreement([[1.0], [1.0]], [[2.0], [2.0]]) == 1
    with pytest.raises(ValueError, match="fewer than two sources"):
        order_agreement([[1.0]], [[1.0]])


@needs_rm
@pytest.mark.parametrize(
    ("table", "figure", "off"),
    [("6_bon_summ_palm", "bon_summ", 0), ("7_bon_dialog_palm", "bon_dialog", 0), ("9_rl_dialog_palm", "rl_dialog", 0),
     ("8_rl_summ_palm", "rl_summ", 1)],
)  # fmt: skip
def test_ranks_of_figure_6(table: str, figure: str, off: int) -> None:
    """Exact from tables 6, 7 and 9; from table 8 but for one cell, where rounding makes a tie."""
    published = np.array([[int(rank) for rank in row] for row in tables()["fig6_ranks"][figure]])
    assert int((rank_sources(tables()[table]) != published).sum()) == off


@needs_rm
def test_agreement_of_the_published_rankings() -> None:
    found = tables()
    accuracy = found["18_rm_acc_summ"]
    for table, tau in (("6_bon_summ_palm", 0.099), ("8_rl_summ_palm", 0.135)):
        assert ranking_agreement(accuracy, found[table]).mean() == pytest.approx(tau, abs=5e-4)
    alike = [
        order_agreement(found["6_bon_summ_palm"], found["10_bon_summ_gpt4"]),
        order_agreement(found["8_rl_summ_palm"], found["12_rl_summ_gpt4"]),
        order_agreement(found["7_bon_dialog_palm"], found["11_bon_dialog_gpt4"]),
    ]
    assert 100 * np.array(alike) == pytest.approx([77.8, 76.7, 100.0], abs=0.05)


@needs_rm
def test_means_of_the_published_tables() -> None:
    """Transfer against translate-train, and the agreement with length that two independent raters would have."""
    found = tables()
    translated = [
        [np.nan if value is None else value for value in row] for row in found["17_translate_train_bon_summ_palm"]
    ]
    assert transfer_mean(found["6_bon_summ_palm"]) == pytest.approx(58.8, abs=0.05)
    assert transfer_mean(translated) == pytest.approx(57.5, abs=0.05)
    dialog, lengths = np.array(found["19_rm_acc_dialog"]) / 100, np.array(found["19_length"]) / 100
    expected = [
        expected_agreement(float(a), float(length)) for row in dialog for a, length in zip(row, lengths, strict=True)
    ]
    assert 100 * np.mean(expected) == pytest.approx(56.6, abs=0.05)
