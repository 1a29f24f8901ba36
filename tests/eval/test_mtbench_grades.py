"""MT-Bench: what a judge is asked, and what its grades come to."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import stdev

import pytest

from eval.judges.prompts import built_in
from eval.judges.question import Verdict
from eval.mtbench.answers import ANSWERS
from eval.mtbench.grade import grade, grading_questions, points_of
from eval.mtbench.questions import load_questions
from eval.mtbench.summary import mtbench_rows, summarise
from icr.base.errors import UserError
from icr.base.files import read_rows, write_rows
from icr.config.schema import MtBench
from tests.helpers.mtbench import (
    LANGUAGES,
    MATH,
    WRITING,
    Scripted,
    answered,
    graded_by,
    line,
    read_lines,
    write_lines,
    write_questions,
)

PROMPTS = built_in()["mtbench"]


def test_the_grade_of_label_probabilities_is_their_expectation() -> None:
    shares = (0.0, 0.0, 0.0, 0.0, 0.25, 0.0, 0.25, 0.0, 0.0, 0.5)
    assert Verdict(shares).expect(points_of(PROMPTS)) == 0.25 * 5 + 0.25 * 7 + 0.5 * 10
    assert Verdict(None, "refused").expect(points_of(PROMPTS)) is None


def test_each_turn_is_its_own_question_and_the_second_shows_the_whole_conversation(tmp_path: Path) -> None:
    folder = write_questions(tmp_path / "q", reference="['12', '6']")
    questions = load_questions(MtBench(questions=str(folder)), ["fr"])
    asked = [q for q, _ in grading_questions(questions["fr"], answered(tmp_path, questions) / "answers")]
    names = ("turn_1", "turn_2", "turn_1_reference", "turn_2_reference")
    assert [q.template for q in asked] == [PROMPTS.wordings[name].text for name in names]
    assert all(q.labels == PROMPTS.labels == tuple(str(n) for n in range(1, 11)) and q.explained for q in asked)
    first, second, _, referenced = (q.prompt() for q in asked)
    assert "fr first" in first and "fr second" not in first and WRITING["fr"][1] not in first
    parts = [WRITING["fr"][0], "fr first", WRITING["fr"][1], "fr second"]
    assert sorted(parts, key=second.index) == parts
    parts = [MATH["fr"][0], "\n12\n", MATH["fr"][1], "\n6\n", "fr first", "fr second"]
    assert sorted(parts, key=referenced.index) == parts
    for q in asked:
        assert "in French throughout" in q.prompt() and "[[" in q.prompt() and "[[" not in q.prompt(explained=False)
        assert "{" not in q.prompt(), "every placeholder is filled"


def test_averages_and_errors_by_hand(tmp_path: Path) -> None:
    lines = [line(n, c, reference=["1", "2"]) for n, c in ((81, "writing"), (82, "writing"), (111, "math"))]
    for lang in ("en", "de"):
        write_lines(tmp_path / "q" / f"{lang}.jsonl", lines)
    grades = {
        ("en", "81-1"): 8, ("en", "81-2"): 6, ("en", "82-1"): 5, ("en", "82-2"): None, ("en", "111-1"): 3,
        ("en", "111-2"): 1, ("de", "81-1"): 7, ("de", "81-2"): 7, ("de", "82-1"): None, ("de", "82-2"): None,
        ("de", "111-1"): 2, ("de", "111-2"): 4,
    }  # fmt: skip
    questions = load_questions(MtBench(questions=str(tmp_path / "q")), ["en", "de"])
    out = answered(tmp_path, questions)
    grade(graded_by(Scripted(lambda q: grades["en" if "en first" in q.prompt() else "de", q.id])), questions, out)
    summary = summarise(out, ["en", "de"])
    assert summary == json.loads((out / "summary.json").read_text())
    en, de, average = summary["languages"]["en"], summary["languages"]["de"], summary["average"]
    # en: question means 7, 5 and 2
    assert (en["n"], en["unscored"], en["unscored_turns"], en["reasons"]) == (3, 0, 1, {"refused": 1})
    assert en["average"] == pytest.approx(14 / 3)
    assert en["average_se"] == pytest.approx(stdev([7, 5, 2]) / math.sqrt(3))
    assert (en["low"], en["high"]) == (None, None)
    assert en["why"]["low"] == "3 prompts are too few; an interval needs 6"
    assert [en["turns"][t]["average"] for t in "12"] == [pytest.approx(16 / 3), pytest.approx(7 / 2)]
    assert en["turns"]["2"]["average_se"] == pytest.approx(stdev([6, 1]) / math.sqrt(2))
    assert en["categories"]["writing"]["average"] == 6.0
    assert en["categories"]["math"] == {
        "average": 2.0, "average_se": None, "low": None, "high": None,
        "why": dict.fromkeys(("average_se", "low", "high"), "a single item has no standard error"),
    }  # fmt: skip
    assert en["references"] == {"questions": 2}
    # de: 7 and 3; question 82 has no grade at all
    assert (de["n"], de["unscored"], de["unscored_turns"], de["average"]) == (2, 1, 2, 5.0)
    # the languages' averages, and the error over questions: what each adds to the macro average
    assert average["average"] == pytest.approx((14 / 3 + 5) / 2)
    of_en, of_de = math.sqrt(3 * 2), math.sqrt(2 * 1)
    parts = [(7 - 14 / 3) / of_en + (7 - 5) / of_de, (5 - 14 / 3) / of_en, (2 - 14 / 3) / of_en + (3 - 5) / of_de]
    assert average["average_se"] == pytest.approx(math.sqrt(sum((p / 2) ** 2 for p in parts)))
    rows = mtbench_rows({0: summary, 1: summary})
    assert [(r["language"], r["round"]) for r in rows] == [(n, k) for n in ("en", "de", "average") for k in (0, 1)]
    assert rows[0]["turn_1"] == en["turns"]["1"]["average"] and rows[0]["categories"]["writing"] == 6.0


def test_a_language_without_grades_is_explained_and_leaves_the_average_empty(tmp_path: Path) -> None:
    questions = load_questions(
        MtBench(questions=str(write_questions(tmp_path / "q", reference=["1", "2"]))), ["en", "de"]
    )
    out = answered(tmp_path, questions)
    grade(graded_by(Scripted(lambda q: None if "de first" in q.prompt() else 7)), questions, out)
    summary = summarise(out, ["en", "de"])
    assert summary["languages"]["de"]["average"] is None
    assert summary["languages"]["de"]["why"]["average"] == "no question has a grade"
    assert summary["average"]["why"]["average"] == "missing for de"
    assert summary["average"]["average"] is None and summary["languages"]["en"]["average"] == 7.0
    judged = read_lines(out / "model_judgment" / "de" / "scripted_single.jsonl")
    assert [row["score"] for row in judged] == [-1] * 4, "FastChat's mark, in its file alone"


def test_a_killed_grading_goes_on_and_a_changed_answer_is_graded_anew(tmp_path: Path) -> None:
    questions = load_questions(MtBench(questions=str(write_questions(tmp_path / "q", reference=["1", "2"]))), LANGUAGES)
    out, judge = answered(tmp_path, questions), Scripted(lambda q: 7, limit=10)
    with pytest.raises(KeyboardInterrupt):
        grade(graded_by(judge), questions, out)
    judge.limit = 10**9
    grade(graded_by(judge), questions, out)
    grade(graded_by(judge), questions, out)
    assert len(judge.seen) == 20 and len({(q.id, q.texts) for q in judge.seen}) == 20
    rows = read_rows(out / "answers" / "fr.parquet")
    rows[0]["response"] = "une autre"
    write_rows(out / "answers" / "fr.parquet", rows, ANSWERS)
    grade(graded_by(judge), questions, out)
    assert [dict(q.values)["language"] for q in judge.seen[20:]] == ["French"] * 4
    assert "une autre" in judge.seen[20].prompt()


def test_answers_that_do_not_cover_the_questions_are_refused(tmp_path: Path) -> None:
    questions = load_questions(MtBench(questions=str(write_questions(tmp_path / "q", reference=["1", "2"]))), ["en"])
    with pytest.raises(UserError, match="no answers in en"):
        grade(graded_by(Scripted(lambda q: 7)), questions, tmp_path / "out")
    out = answered(tmp_path, {"en": questions["en"][:1]})
    with pytest.raises(UserError, match="do not cover 2 turns"):
        grade(graded_by(Scripted(lambda q: 7)), questions, out)
