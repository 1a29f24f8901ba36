"""Multilingual MT-Bench: each turn graded from 1 to 10 by a judge that sees the conversation up to it.

`eval.mtbench.questions` reads questions, `eval.mtbench.answers` has a model answer them, `eval.mtbench.summary` says
what came out. In the folder that all of them call `out`:

    answers/LANG.parquet            rows of `eval.mtbench.answers.ANSWERS`
    references/LANG.jsonl           what the judge wrote where a reference was missing
    verdicts/LANG.parquet           rows of `VERDICTS`
    summary.json
    model_answer/LANG/MODEL.jsonl, model_judgment/LANG/JUDGE_single.jsonl    for FastChat's tools
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from eval.judges.asking import Judging, Sheet
from eval.judges.question import Question, Verdict
from eval.mtbench.answers import file_name, write_lines
from eval.mtbench.questions import MtQuestion, Questions
from eval.mtbench.sampling import NO_ROOM
from icr.base.errors import UserError
from icr.base.files import read_rows
from icr.languages import english_name

Row = dict[str, Any]
GRADES = tuple(map(str, range(1, 11)))
POINTS = tuple(map(float, GRADES))
UNSCORED = -1
"""FastChat's score of a judgment that cannot be read. It stands in its file alone, and in no average."""

VERDICTS = pa.schema(
    [
        ("question_id", pa.string()),
        ("key", pa.string()),
        ("category", pa.string()),
        ("turn", pa.int32()),
        ("grade", pa.float64()),  # 1 to 10; null when unscored
        ("reason", pa.string()),  # null, or why there is no grade
        ("raw", pa.string()),
        ("shortened", pa.bool_()),  # an answer was cut to fit the judge's context
        ("reference", pa.string()),  # where this turn's own is from; null: it has none
        ("judge", pa.string()),
    ]
)


def grade(judging: Judging, questions: Questions, out: Path) -> None:
    """Ask for the grades of the answers in `out`/answers: verdicts/LANG.parquet, and FastChat's judgment files.

    A turn without an answer, and a question that needs a reference and has none, are unscored without being asked.

    Raises:
        UserError: answers that do not cover the questions, or an endpoint that cannot be used.
    """
    sheets = {lang: _sheet(judging.name, of_lang, out / "answers") for lang, of_lang in questions.items()}
    judging.ask(out / "verdicts", list(sheets.values()), "MT-Bench grades", "mean grade")
    for lang, sheet in sheets.items():
        _write_judgments(out, _turns(questions[lang]), sheet, judging.name)


def _turns(questions: Sequence[MtQuestion]) -> list[tuple[MtQuestion, int]]:
    return [(q, turn) for q in questions for turn in (1, 2)]


def _sheet(judge: str, questions: Sequence[MtQuestion], answers: Path) -> Sheet:
    turns, asked = _turns(questions), grading_questions(questions, answers)

    def row(number: int, verdict: Verdict) -> Row:
        q, turn = turns[number]
        return {
            "question_id": str(q.id),
            "key": q.key,
            "category": q.category,
            "turn": turn,
            "grade": expected_grade(verdict),
            "reason": verdict.reason,
            "raw": verdict.raw,
            "shortened": verdict.shortened,
            "reference": q.reference.sources[0 if q.reference.whole else turn - 1] or None,
            "judge": judge,
        }

    known = {n: verdict for n, (_, verdict) in enumerate(asked) if verdict is not None}
    return Sheet(questions[0].lang, [q for q, _ in asked], [POINTS] * len(asked), VERDICTS, row, known)


def expected_grade(verdict: Verdict) -> float | None:
    """The expectation over the labels' shares; of a judge that writes one label, that label."""
    return verdict.expect(POINTS)


def grading_questions(questions: Sequence[MtQuestion], answers: Path) -> list[tuple[Question, Verdict | None]]:
    """The two questions of each, turn 1 and then turn 2, with the verdict where it is known without asking.

    Args:
        questions: of one language.
        answers: folder of LANG.parquet.
    """
    lang = questions[0].lang
    rows = {(row["key"], row["turn"]): row for row in _answers(answers, lang)}
    missing = [q for q in questions for turn in (1, 2) if (q.key, turn) not in rows]
    if missing:
        raise UserError(
            f"the answers in {lang} do not cover {len(missing)} turns of the questions",
            where=str(answers / f"{lang}.parquet"),
            do="answer the questions first: the same command does so",
        )
    return [_question(q, turn, rows[q.key, 1], rows[q.key, 2]) for q in questions for turn in (1, 2)]


def _answers(folder: Path, lang: str) -> list[Row]:
    file = folder / f"{lang}.parquet"
    if not file.is_file():
        raise UserError(f"there are no answers in {lang}", where=str(folder), do="let the model answer first")
    return read_rows(file)


def template_question(q: MtQuestion, turn: int, answer: str) -> Question:
    """What is asked about a turn, with one answer in the place of all: for estimates."""
    row = {"response": answer, "finish_reason": "stop"}
    return _question(q, turn, row, row)[0]


def _question(q: MtQuestion, turn: int, first: Row, second: Row) -> tuple[Question, Verdict | None]:
    texts = {"question_1": q.turns[0], "answer_1": first["response"]}
    if turn == 2:
        texts |= {"question_2": q.turns[1], "answer_2": second["response"]}
    own = q.reference.turns[0] if turn == 1 else not q.reference.empty
    if own:
        texts |= {f"reference_{n}": q.reference.turns[n - 1] for n in range(1, turn + 1)}
    question = Question(
        id=f"{q.id}-{turn}",
        template=f"judge_grade_{turn}{'_reference' if own else ''}.txt",
        labels=GRADES,
        texts=tuple(texts.items()),
        values=(("language", english_name(q.lang)),),
        cut=("answer_1", "answer_2"),
        explained=True,
    )
    if q.referenced and q.reference.empty:
        return question, Verdict(None, "no reference")
    if (first if turn == 1 else second)["finish_reason"] == NO_ROOM:
        return question, Verdict(None, "no answer: the model's context had no room for one")
    return question, None


def _write_judgments(out: Path, turns: Sequence[tuple[MtQuestion, int]], sheet: Sheet, judge: str) -> None:
    """model_judgment/LANG/JUDGE_single.jsonl, as FastChat's show_result reads it."""
    lang, file = sheet.lang, sheet.path(out / "verdicts")
    model = file_name(_answers(out / "answers", lang)[0]["model"])
    kind, _, name = judge.partition(": ")
    name = file_name((name or kind).rpartition("/")[2])
    made = file.stat().st_mtime
    lines = [
        {
            "question_id": q.id,
            "model": model,
            "judge": [name, question.template.removesuffix(".txt")],
            # a local judge is asked for the label alone
            "user_prompt": question.prompt(explained=kind != "local"),
            "judgment": row["raw"],
            "score": UNSCORED if row["grade"] is None else row["grade"],
            "turn": turn,
            "tstamp": made,
        }
        for (q, turn), question, row in zip(turns, sheet.questions, read_rows(file), strict=True)
    ]
    write_lines(out / "model_judgment" / lang / f"{name}_single.jsonl", lines)
