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

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from eval.judges.asking import Asking, Shown
from eval.judges.base import Judge, Running
from eval.judges.open import open_judge
from eval.judges.question import Question, Verdict
from eval.mtbench.answers import NO_ROOM, file_name, write_lines
from eval.mtbench.questions import BY_JUDGE, MtQuestion, Questions
from eval.mtbench.references import EndpointWriter, LocalWriter, complete_references, incomplete
from icr.base.errors import UserError
from icr.base.files import read_rows
from icr.base.progress import Reporter
from icr.config.schema import Judge as JudgeConfig
from icr.languages import english_name

Row = dict[str, Any]
GRADES = tuple(map(str, range(1, 11)))
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


def judge_answers(
    config: JudgeConfig, questions: Questions, out: Path, cache: Path, reporter: Reporter, folder: str = ""
) -> Judge:
    """Grade the answers in `out`/answers, after the judge has written the references that it is to write.

    Args:
        config: the `judge` section, with `mtbench`.
        questions: of `eval.mtbench.questions.load_questions`.
        cache: sqlite file in which an endpoint's answers are kept.
        folder: where the local judge's model lies, when it has been made a folder already.

    Returns the judge that was asked.

    Raises:
        UserError: no answers, no judge, or an endpoint that cannot be used; nothing judged before is lost.
    """
    settings = config.mtbench
    assert settings is not None
    references = out / "references"
    writing = settings.references == BY_JUDGE and incomplete(questions)
    if writing and config.kind == "local" and config.model:
        # before the judge is loaded, so that one model is in memory at a time
        local = LocalWriter(folder or config.model, config.model)
        questions = complete_references(questions, local, references, settings.max_tokens, reporter)
        del local
    judge = open_judge(config, cache, reporter, folder)
    if writing and config.kind == "openai":
        writer = EndpointWriter(judge.endpoint)  # type: ignore[attr-defined]
        questions = complete_references(questions, writer, references, settings.max_tokens, reporter)
    grade(judge, questions, out, reporter)
    return judge


def grade(judge: Judge, questions: Questions, out: Path, reporter: Reporter) -> None:
    """Ask for the grades of the answers in `out`/answers: verdicts/LANG.parquet, and FastChat's judgment files.

    A turn without an answer, and a question that needs a reference and has none, are unscored without being asked.

    Raises:
        UserError: answers that do not cover the questions, or an endpoint that cannot be used.
    """
    asked = {lang: grading_questions(of_lang, out / "answers") for lang, of_lang in questions.items()}
    known = {q: verdict for pairs in asked.values() for q, verdict in pairs if verdict is not None}
    shown = Shown("mean grade", "grade")
    asking = Asking(_Knowing(judge, known), out / "verdicts", reporter, sum(map(len, asked.values())), shown)
    for lang, pairs in asked.items():
        turns = [(q, turn) for q in questions[lang] for turn in (1, 2)]

        def row(number: int, verdict: Verdict, turns: list[tuple[MtQuestion, int]] = turns) -> Row:
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
                "judge": judge.name,
            }

        file = asking.language(lang, [q for q, _ in pairs], VERDICTS, row)
        _write_judgments(out, lang, turns, [q for q, _ in pairs], file, judge.name)
    asking.close()


def expected_grade(verdict: Verdict) -> float | None:
    """The expectation over the labels' shares; of a judge that writes one label, that label."""
    if verdict.shares is None:
        return None
    return sum(share * float(label) for share, label in zip(verdict.shares, GRADES, strict=True))


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


class _Knowing:
    """A judge that is not asked for the verdicts that are known."""

    def __init__(self, judge: Judge, known: Mapping[Question, Verdict]) -> None:
        self.name, self.shard_size = judge.name, judge.shard_size
        self._judge, self._known = judge, known

    def ask(
        self, questions: Sequence[Question], done: Callable[[int], None], running: Running | None = None
    ) -> list[Verdict]:
        unknown = [q for q in questions if q not in self._known]
        done(len(questions) - len(unknown))
        places = [n for n, q in enumerate(questions) if q not in self._known]

        def told(number: int, verdict: Verdict) -> str:
            return running(places[number], verdict) if running is not None else ""

        new = iter(self._judge.ask(unknown, done, told) if unknown else [])
        return [self._known[q] if q in self._known else next(new) for q in questions]

    def cost(self) -> dict[str, Any] | None:
        return self._judge.cost()


def _write_judgments(
    out: Path, lang: str, turns: Sequence[tuple[MtQuestion, int]], asked: Sequence[Question], file: Path, judge: str
) -> None:
    """model_judgment/LANG/JUDGE_single.jsonl, as FastChat's show_result reads it."""
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
        for (q, turn), question, row in zip(turns, asked, read_rows(file), strict=True)
    ]
    write_lines(out / "model_judgment" / lang / f"{name}_single.jsonl", lines)
