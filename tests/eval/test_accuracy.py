"""Reward accuracy: which pairs are asked about, how verdicts count, and the command on a run's round."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from eval.accuracy import agreement_of, chosen_first, pick_pairs, points_of, run_agreement, summarise
from eval.judges.prompts import built_in
from eval.judges.question import Question, Verdict
from icr.base.errors import UserError
from icr.base.files import read_rows, write_rows
from icr.rows import PAIRS
from tests.helpers.judging import judged_by

WORDING = built_in()["accuracy"].one


def write_pairs(path: Path, count: int = 6) -> Path:
    rows = [
        {"prompt_id": str(n), "lang": lang, "prompt": f"Frage {n}", "chosen": f"gut {n}", "rejected": f"schlecht {n}",
         "chosen_reward": 1.0, "rejected_reward": 0.0, "chosen_sample": 0, "rejected_sample": 1}
        for lang in ("de", "sw") for n in range(count)
    ]  # fmt: skip
    write_rows(path, rows, PAIRS)
    return path


class Rater:
    """Prefers what `better` says of the two texts; None: a refusal."""

    def __init__(self, label: Callable[[str, str], str | None]) -> None:
        self.label, self.asked = label, list[Question]()

    def ask(self, questions: Sequence[Question], done: Callable[[int], None], running: Any = None) -> list[Verdict]:
        self.asked += questions
        verdicts = []
        for question in questions:
            texts = dict(question.texts)
            label = self.label(texts["first"], texts["second"])
            verdicts.append(Verdict.of_label(question, label, label) if label else Verdict(None, "refused"))
        return verdicts


def prefers_good(first: str, second: str) -> str:
    return "answer1" if first.startswith("gut") else "answer2"


def test_a_judge_of_the_rewards_mind_agrees_wholly_whatever_the_order(tmp_path: Path) -> None:
    picked = pick_pairs(write_pairs(tmp_path / "pairs.parquet", 20), 20)
    assert {chosen_first(row) for row in picked["de"]} == {True, False}  # shuffled
    run_agreement(judged_by(Rater(prefers_good), "rater", 3), picked, tmp_path / "out")
    summary = summarise(tmp_path / "out", "rater")
    assert {lang: row["accuracy"] for lang, row in summary["languages"].items()} == {"de": 100.0, "sw": 100.0}
    average = summary["average"]
    assert (average["accuracy"], average["accuracy_se"]) == (100.0, 0.0)
    # all of 20 is no certainty: Wilson's interval with t₁₉ = 2.09302
    assert average["accuracy_interval"] == pytest.approx([100 * 20 / (20 + 2.0930241**2), 100.0])


def test_accuracy_by_hand_with_ties_and_refusals(tmp_path: Path) -> None:
    picked = pick_pairs(write_pairs(tmp_path / "pairs.parquet"), 6)

    def label(first: str, second: str) -> str | None:
        number = int(first.split()[1])
        right = prefers_good(first, second)
        wrong = {"answer1": "answer2", "answer2": "answer1"}[right]
        return [right, right, right, wrong, "tie", None][number]

    run_agreement(judged_by(Rater(label), "rater", 3), picked, tmp_path / "out")
    row = summarise(tmp_path / "out", "rater")["languages"]["de"]
    values = [1, 1, 1, 0, 0.5]
    mean = sum(values) / 5
    se = math.sqrt(sum((v - mean) ** 2 for v in values) / 4 / 5)
    assert (row["n"], row["unscored"], row["reasons"]) == (5, 1, {"refused": 1})
    assert (row["accuracy"], row["accuracy_se"]) == pytest.approx((100 * mean, 100 * se))
    assert row["ties"] == pytest.approx(0.2)


def test_the_average_takes_a_prompts_languages_as_one_draw(tmp_path: Path) -> None:
    """Both languages say the same of every pair, so two are no surer than one."""
    picked = pick_pairs(write_pairs(tmp_path / "pairs.parquet", 8), 8)

    def label(first: str, second: str) -> str:
        right = prefers_good(first, second)
        return right if int(first.split()[1]) % 4 else {"answer1": "answer2", "answer2": "answer1"}[right]

    run_agreement(judged_by(Rater(label), "rater", 3), picked, tmp_path / "out")
    summary = summarise(tmp_path / "out", "rater")
    one, average = summary["languages"]["de"], summary["average"]
    assert average["accuracy"] == one["accuracy"] == 75.0
    assert average["accuracy_se"] == pytest.approx(one["accuracy_se"]) == pytest.approx(100 * math.sqrt(0.1875 / 7))
    assert average["accuracy_interval"] == pytest.approx(one["accuracy_interval"])


def test_shares_count_to_the_side_of_the_chosen_response_and_ties_as_half() -> None:
    assert agreement_of(Verdict((0.5, 0.3, 0.2)), points_of(True, WORDING)) == pytest.approx((0.6, 0.2))
    assert agreement_of(Verdict((0.5, 0.3, 0.2)), points_of(False, WORDING)) == pytest.approx((0.4, 0.2))
    assert agreement_of(Verdict(None, "refused"), points_of(True, WORDING)) == (None, None)


def test_the_same_pairs_are_picked_every_time_and_asked_once(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs.parquet", 30)
    picked = pick_pairs(pairs, 7)
    assert picked == pick_pairs(pairs, 7) and {len(rows) for rows in picked.values()} == {7}
    assert picked["de"] == pick_pairs(pairs, 9)["de"][:7]  # asking for more keeps the first
    judge = Rater(prefers_good)
    run_agreement(judged_by(judge, "rater", 3), picked, tmp_path / "out")
    run_agreement(judged_by(judge, "rater", 3), picked, tmp_path / "out")
    assert len(judge.asked) == 14
    assert all(q.labels == WORDING.labels for q in judge.asked)
    assert sum("Swahili" in q.prompt() for q in judge.asked if dict(q.values)["lang"] == "sw") == 7
    assert len(read_rows(tmp_path / "out" / "sw.parquet")) == 7


def test_without_verdicts_there_is_no_accuracy_but_a_reason(tmp_path: Path) -> None:
    picked = pick_pairs(write_pairs(tmp_path / "pairs.parquet"), 3)
    run_agreement(judged_by(Rater(lambda first, second: None), "rater", 3), picked, tmp_path / "out")
    summary = summarise(tmp_path / "out", "rater")
    assert summary["languages"]["de"]["why"]["accuracy"] == "no pair has a verdict"
    assert summary["average"]["accuracy"] is None
    assert summary["average"]["why"]["accuracy"] == "missing for de, sw"


def test_a_round_without_pairs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no pairs"):
        pick_pairs(tmp_path / "pairs.parquet", 3)
