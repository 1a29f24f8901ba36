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
from dataclasses import replace
from pathlib import Path
from typing import TypedDict

from eval.judges.asking import Judging, Sheet
from eval.judges.prompts import built_in
from eval.judges.question import Question, Verdict
from eval.judges.wording import Prompts
from eval.mtbench.answers import TurnAnswer, file_name, write_lines
from eval.mtbench.questions import MtQuestion, Questions
from eval.mtbench.sampling import NO_ROOM
from icr.base.errors import UserError
from icr.base.files import read_rows
from icr.languages import english_name
from icr.rows import make_schema

BENCHMARK = "mtbench"
UNSCORED = -1
"""FastChat's score of a judgment that cannot be read. It is only in FastChat's file, never in an average."""


class Grade(TypedDict):
    """What the judge says of an answer at one turn: verdicts/LANG.parquet."""

    question_id: str
    key: str
    category: str
    turn: int
    grade: float | None
    """On the scale of the judge's prompt, 1 to 10 in icr's own; None when unscored."""
    reason: str | None
    """None, or why there is no grade."""
    raw: str
    shortened: bool
    """An answer was cut to fit the judge's context."""
    reference: str | None
    """Where this turn's own is from; None: it has none."""
    judge: str


VERDICTS = make_schema(Grade)


def grade(judging: Judging, questions: Questions, out: Path, answers: Path | None = None) -> None:
    """Ask for the grades of the answers in `out`/answers: verdicts/LANG.parquet, and FastChat's judgment files.

    A turn without an answer, and a question that needs a reference and has none, are unscored without being asked.

    Raises:
        UserError: answers that do not cover the questions, or an endpoint that cannot be used.
    """
    prompts, answers = judging.prompts[BENCHMARK], answers or out / "answers"
    sheets = {lang: _sheet(judging.name, of_lang, answers, prompts) for lang, of_lang in questions.items()}
    judging.ask(out / "verdicts", list(sheets.values()), "MT-Bench grades", "mean grade")
    for lang, sheet in sheets.items():
        model = _answers(answers, lang)[0]["model"]
        _write_judgments(out, _turns(questions[lang]), sheet, (judging.name, model), prompts)


def points_of(prompts: Prompts) -> tuple[float, ...]:
    """The grades that the labels of a prompt stand for."""
    return tuple(map(float, prompts.labels))


def _turns(questions: Sequence[MtQuestion]) -> list[tuple[MtQuestion, int]]:
    return [(q, turn) for q in questions for turn in (1, 2)]


def _sheet(judge: str, questions: Sequence[MtQuestion], answers: Path, prompts: Prompts) -> Sheet:
    turns, asked = _turns(questions), grading_questions(questions, answers, prompts)
    points = points_of(prompts)

    def row(number: int, verdict: Verdict) -> Grade:
        q, turn = turns[number]
        return {
            "question_id": str(q.id),
            "key": q.key,
            "category": q.category,
            "turn": turn,
            "grade": verdict.expect(points),
            "reason": verdict.reason,
            "raw": verdict.raw,
            "shortened": verdict.shortened,
            "reference": q.reference.sources[0 if q.reference.whole else turn - 1] or None,
            "judge": judge,
        }

    known = {n: verdict for n, (_, verdict) in enumerate(asked) if verdict is not None}
    return Sheet(questions[0].lang, [q for q, _ in asked], [points] * len(asked), VERDICTS, row, known)


def grading_questions(
    questions: Sequence[MtQuestion], answers: Path, prompts: Prompts | None = None
) -> list[tuple[Question, Verdict | None]]:
    """The two questions of each, turn 1 and then turn 2, with the verdict where it is known without asking.

    Args:
        questions: of one language.
        answers: folder of LANG.parquet.
    """
    lang = questions[0].lang
    prompts = prompts or built_in()[BENCHMARK]
    rows = {(row["key"], row["turn"]): row for row in _answers(answers, lang)}
    missing = [q for q in questions for turn in (1, 2) if (q.key, turn) not in rows]
    if missing:
        raise UserError(
            f"the answers in {lang} do not cover {len(missing)} turns of the questions",
            where=str(answers / f"{lang}.parquet"),
            do="rerun the same command: it answers the missing questions first",
        )
    return [
        (
            _question(q, turn, rows[q.key, 1]["response"], rows[q.key, 2]["response"], prompts),
            _known(q, rows[q.key, turn]),
        )
        for q in questions
        for turn in (1, 2)
    ]


def _answers(folder: Path, lang: str) -> list[TurnAnswer]:
    file = folder / f"{lang}.parquet"
    if not file.is_file():
        raise UserError(f"no answers in {lang} found", where=str(folder), do="let the model answer first")
    return read_rows(file)


def template_question(q: MtQuestion, turn: int, answer: str, prompts: Prompts) -> Question:
    """What is asked about a turn, with one answer in the place of all: for estimates."""
    return _question(q, turn, answer, answer, prompts)


def _question(q: MtQuestion, turn: int, first: str, second: str, prompts: Prompts) -> Question:
    """What is asked about a turn, given the answers at both."""
    texts = {"question_1": q.turns[0], "answer_1": first}
    if turn == 2:
        texts |= {"question_2": q.turns[1], "answer_2": second}
    own = q.reference.turns[0] if turn == 1 else not q.reference.empty
    if own:
        texts |= {f"reference_{n}": q.reference.turns[n - 1] for n in range(1, turn + 1)}
    asked = Question.of(
        f"{q.id}-{turn}",
        prompts.wordings[f"turn_{turn}{'_reference' if own else ''}"],
        texts=tuple(texts.items()),
        values=(("language", english_name(q.lang)),),
        cut=("answer_1", "answer_2"),
    )
    return replace(asked, graded=True)


def _known(q: MtQuestion, answer: TurnAnswer) -> Verdict | None:
    """The verdict on an answer about which nobody is asked."""
    if q.referenced and q.reference.empty:
        return Verdict(None, "no reference")
    if answer["finish_reason"] == NO_ROOM:
        return Verdict(None, "no answer: the model's context had no room for one")
    return None


def _write_judgments(
    out: Path, turns: Sequence[tuple[MtQuestion, int]], sheet: Sheet, who: tuple[str, str], prompts: Prompts
) -> None:
    """model_judgment/LANG/JUDGE_single.jsonl, as FastChat's show_result reads it."""
    lang, file = sheet.lang, sheet.path(out / "verdicts")
    judge, model = who[0], file_name(who[1])
    kind, _, name = judge.partition(": ")
    name = file_name((name or kind).rpartition("/")[2])
    made, named = file.stat().st_mtime, {w.text: w.name for w in prompts.wordings.values()}
    rows: list[Grade] = read_rows(file)
    lines = [
        {
            "question_id": q.id,
            "model": model,
            "judge": [name, named[question.template]],
            # a local judge is asked for the label alone
            "user_prompt": question.prompt(explained=question.explained and kind != "local"),
            "judgment": row["raw"],
            "score": UNSCORED if row["grade"] is None else row["grade"],
            "turn": turn,
            "tstamp": made,
        }
        for (q, turn), question, row in zip(turns, sheet.questions, rows, strict=True)
    ]
    write_lines(out / "model_judgment" / lang / f"{name}_single.jsonl", lines)
