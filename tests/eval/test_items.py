"""From verdicts to items: both orders or none, and identical answers."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from eval.judges.question import Question, Verdict
from eval.xalpaca.items import read_items
from eval.xalpaca.pairwise import ORDERS, VERDICTS, VerdictRow, run_verdicts
from eval.xalpaca.summary import summarise
from icr.base.files import read_rows, write_rows
from icr.report.evaluation_tables import xalpaca_table
from tests.helpers.judging import judged_by, write_answers


class AlwaysFirst:
    """Takes the first answer, whatever it is."""

    def __init__(self) -> None:
        self.asked = list[Question]()

    def ask(self, questions: Sequence[Question], done: Callable[[int], None], running: Any = None) -> list[Verdict]:
        self.asked += questions
        return [Verdict.of_label(question, "A", "A") for question in questions]


def verdict(id: str, order: str, preference: float | None) -> VerdictRow:
    reason = None if preference is not None else "refused"
    return {"prompt_id": id, "order": order, "preference": preference, "reason": reason, "raw": "", "shortened": False}


def test_an_item_counts_with_all_orders_that_were_asked() -> None:
    rows = [
        *(verdict("both", order, value) for order, value in zip(ORDERS, (1.0, 0.5), strict=True)),
        *(verdict("one", order, value) for order, value in zip(ORDERS, (1.0, None), strict=True)),
        *(verdict("none", order, None) for order in ORDERS),
        verdict("seeded", ORDERS[1], 0.25),
    ]
    items = read_items(rows)
    assert items.preferences == {"both": 0.75, "seeded": 0.25}
    assert items.one_order == ["one"]


def test_lost_orders_do_not_become_the_judges_taste_for_the_first_answer(tmp_path: Path) -> None:
    """Two equal models, and a judge that always says A: where 40 % of one order was lost, the rate was 67 ± 2.4."""
    ids = [str(n) for n in range(200)]
    answers = write_answers(tmp_path / "answers", "de", {id: f"Antwort {id}" for id in ids})
    lost = np.random.default_rng(0).random(len(ids)) < 0.4
    rows = [
        verdict(id, order, None if gone and order == "baseline-first" else float(order == "policy-first"))
        for id, gone in zip(ids, lost, strict=True)
        for order in ORDERS
    ]
    write_rows(tmp_path / "verdicts" / "de.parquet", rows, VERDICTS)
    summary = summarise(answers, {"de": {id: f"answer {id}" for id in ids}}, tmp_path, "j", "b")
    row = summary["languages"]["de"]
    assert (row["win_rate"], row["discrete_win_rate"]) == (50.0, 50.0)
    assert (row["n"], row["one_order"], row["unscored"]) == (200 - lost.sum(), lost.sum(), lost.sum())
    assert row["position_bias"] == 1.0
    assert (row["hard_verdicts"], row["soft_verdicts"]) == (400 - lost.sum(), 0)


def test_the_table_names_what_counts_in_no_rate_and_why_there_is_no_interval(tmp_path: Path) -> None:
    answers = write_answers(tmp_path / "answers", "de", {"1": "eins", "2": "zwei", "3": "gleich"})
    values = [("1", 0.9), ("1", 1.0), ("2", 0.0), ("2", None), ("3", 0.5), ("3", 0.5)]
    rows = [verdict(id, order, value) for (id, value), order in zip(values, ORDERS * 3, strict=True)]
    write_rows(tmp_path / "verdicts" / "de.parquet", rows, VERDICTS)
    summary = summarise(answers, {"de": {"1": "x", "2": "y", "3": "gleich"}}, tmp_path, "j", "b") | {"cost": None}
    out = io.StringIO()
    Console(file=out, width=120).print(xalpaca_table(summary))
    for line in (
        "de: 1 items were judged in one order only; they count in no rate",
        "de: 1 answers are identical to the baseline's: draws, not asked",
        "de: 1 verdicts are weighted by probabilities, 2 are a label alone",
        "de, average: no interval: 2 prompts are too few; an interval needs 6",
    ):
        assert out.getvalue().count(line) == 1, line
    assert out.getvalue().count("interval") == 2


def test_verdicts_from_probabilities_and_from_labels_are_counted_apart(tmp_path: Path) -> None:
    answers = write_answers(tmp_path / "answers", "de", {"1": "eins", "2": "zwei"})
    values = [("1", 0.9), ("1", 1.0), ("2", 0.0), ("2", 0.3)]
    rows = [verdict(id, order, value) for (id, value), order in zip(values, ORDERS * 2, strict=True)]
    write_rows(tmp_path / "verdicts" / "de.parquet", rows, VERDICTS)
    row = summarise(answers, {"de": {"1": "x", "2": "y"}}, tmp_path, "j", "b")["languages"]["de"]
    assert (row["soft_verdicts"], row["hard_verdicts"]) == (2, 2)


@pytest.mark.parametrize("orders", ["both", "seeded"])
def test_identical_answers_are_draws_and_nobody_is_asked(tmp_path: Path, orders: str) -> None:
    texts = {str(n): f"Antwort {n}" for n in range(8)}
    answers = write_answers(tmp_path / "answers", "de", texts)
    baseline = {"de": {id: text if int(id) < 6 else "other" for id, text in texts.items()}}
    judge = AlwaysFirst()
    run_verdicts(judged_by(judge, "first", 3), answers, baseline, tmp_path, orders)
    assert {q.id for q in judge.asked} == {"6", "7"}
    preferences = read_items(read_rows(tmp_path / "verdicts" / "de.parquet")).preferences
    assert [preferences[str(n)] for n in range(6)] == [0.5] * 6
    row = summarise(answers, baseline, tmp_path, "j", "b", orders)["languages"]["de"]
    assert row["identical"] == 6 and row["hard_verdicts"] == (4 if orders == "both" else 2)
