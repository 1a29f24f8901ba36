"""A generative judge on the Ties of RewardBench 2: it rates each answer on its own from 1 to 10, as generative
models do there (Malik et al., arXiv 2506.01937), since several right answers make no pairs.

The prompt is that of MT-Bench's first turn, `mtbench.turn_1` of `judge.template`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypedDict

from eval.judges.asking import Sheet
from eval.judges.panel import member_folder
from eval.judges.prompts import find_prompts
from eval.judges.question import Question, Verdict
from eval.judges.wording import Wording
from eval.reward_models.bench import Scores
from eval.reward_models.bench_rows import TIES, BenchRow
from eval.reward_models.judged import JudgeRow
from eval.reward_models.rows import Workplace
from icr.base.conversation import load_conversation, show_conversation
from icr.base.files import read_rows
from icr.languages import english_name
from icr.rows import make_schema


class Rating(TypedDict):
    """What the judge says of one answer: judges/NAME/ratings/LANG.parquet."""

    row_id: str
    answer: int
    """Its place among the right and then the wrong answers, from 0."""
    grade: float | None
    """On the scale of the prompt, 1 to 10 in icr's own; None when unscored."""
    reason: str | None
    """None, or why it is unscored."""
    raw: str
    shortened: bool


RATINGS = make_schema(Rating)


def rater(judge: JudgeRow) -> JudgeRow | None:
    """The judge with the prompt for grades; None for a custom judge, which only compares."""
    return None if judge.config.own else replace(judge, benchmark="mtbench")


def list_ties(rows: Sequence[BenchRow], most: int | None) -> list[int]:
    """The places of the rows of Ties that judges rate.

    Args:
        most: rows of each language, at most. The two rows of a prompt stay together.
    """
    names: dict[str, dict[str, list[int]]] = {}
    for place, row in enumerate(rows):
        if row.subset == TIES:
            names.setdefault(row.lang, {}).setdefault(row.id.partition(":")[2], []).append(place)
    kept = [of for prompts in names.values() for of in list(prompts.values())[: None if most is None else most // 2]]
    return sorted(place for of in kept for place in of)


def rate(judge: JudgeRow, rows: Sequence[BenchRow], at: Workplace) -> list[Scores]:
    """The grades of each row's answers; what was asked before is not asked again.

    Args:
        judge: as `rater` gives it.

    Raises:
        UserError, TooManyUnscored, StageFailed: as `Judging.ask`.
    """
    judging, folder = judge.judging(at), member_folder(at.out, judge.name) / "ratings"
    wording = wording_of(judge)
    languages = dict.fromkeys(row.lang for row in rows)
    sheets = [_sheet(lang, [row for row in rows if row.lang == lang], wording) for lang in languages]
    judging.ask(folder, sheets, f"ratings: {judge.name}", "mean grade")
    judging.close()
    read: dict[str, list[Rating]] = {lang: read_rows(folder / f"{lang}.parquet") for lang in languages}
    grades = {(lang, of["row_id"], of["answer"]): of["grade"] for lang, ratings in read.items() for of in ratings}

    def scores(row: BenchRow) -> Scores:
        values = [grades[row.lang, row.id, n] for n in range(len(row.chosen) + len(row.rejected))]
        return values[: len(row.chosen)], values[len(row.chosen) :]

    return [scores(row) for row in rows]


def wording_of(judge: JudgeRow) -> Wording:
    """What a rater is asked with."""
    return find_prompts(judge.config, "mtbench").wordings["turn_1"]


def rating_questions(rows: Sequence[BenchRow], wording: Wording) -> list[Question]:
    """What is asked about the answers of rows: one question each."""
    return [
        replace(
            Question.of(
                f"{row.id}-{n}",
                wording,
                texts=(("question_1", show_conversation(load_conversation(row.prompt))), ("answer_1", answer)),
                values=(("language", english_name(row.lang)),),
                cut=("answer_1",),
            ),
            graded=True,
        )
        for row in rows
        for n, answer in enumerate((*row.chosen, *row.rejected))
    ]


def _sheet(lang: str, rows: Sequence[BenchRow], wording: Wording) -> Sheet:
    answers = [(row.id, n) for row in rows for n in range(len(row.chosen) + len(row.rejected))]
    points = tuple(map(float, wording.labels))

    def row(number: int, verdict: Verdict) -> Mapping[str, object]:
        id, answer = answers[number]
        return Rating(row_id=id, answer=answer, grade=verdict.expect(points), reason=verdict.reason, raw=verdict.raw,
                      shortened=verdict.shortened)  # fmt: skip

    return Sheet(lang, rating_questions(rows, wording), [points] * len(answers), RATINGS, row)
