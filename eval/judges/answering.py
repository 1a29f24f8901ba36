"""The worker's half of judging: questions come in as a table, verdicts go out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import pyarrow as pa

from eval.judges.base import Judge, Running
from eval.judges.open import Examiner, open_judge
from eval.judges.question import Question, Verdict
from icr.base.progress import Reporter
from icr.engines.precision import Precision
from icr.engines.templates import Template
from icr.work.pool import Task
from icr.work.resident import Resident

QUESTIONS = pa.schema(
    [
        ("id", pa.string()),
        ("lang", pa.string()),
        ("points", pa.list_(pa.float64())),  # of each label, for the result that is shown meanwhile
        ("question", pa.string()),  # JSON of a `Question`
    ]
)
VERDICTS = pa.schema(
    [
        ("shares", pa.list_(pa.float64())),  # of the question's labels; null when unscored
        ("reason", pa.string()),
        ("raw", pa.string()),
        ("shortened", pa.bool_()),
    ]
)


class JudgeTask(Task):
    """In: QUESTIONS. Out: VERDICTS. What is the same for every kind of judge."""

    work: str
    """Names the work that a running result is of."""
    shown: str = ""
    """Name of the result that is shown meanwhile: the mean of the points."""
    scale: float = 1.0
    """What that mean is multiplied by."""


class AskTask(JudgeTask):
    """An endpoint, or a class of the user's: one process asks all."""

    name: ClassVar[str] = "ask"
    lane: ClassVar[str] = "asker"

    examiner: Examiner


class AskLocalTask(JudgeTask):
    """A local model, on all devices."""

    name: ClassVar[str] = "ask-local"
    lane: ClassVar[str] = "scorer"

    model: str
    template: Template
    precision: Precision


def ask(state: Resident, task: AskTask, table: pa.Table, reporter: Reporter) -> pa.Table:
    return _judge(state, open_judge(state, task.examiner, reporter), task, table, reporter)


def ask_local(state: Resident, task: AskLocalTask, table: pa.Table, reporter: Reporter) -> pa.Table:
    from eval.judges.local import LocalJudge

    judge = LocalJudge(state.scorer(task.model, task.precision), state.tokenizer(task.model, task.template), reporter)
    return _judge(state, judge, task, table, reporter)


def _judge(state: Resident, judge: Judge, task: JudgeTask, table: pa.Table, reporter: Reporter) -> pa.Table:
    mean = state.keep(f"running {task.work} {task.shown}", lambda: RunningMean(task.shown, task.scale))
    rows = table.to_pylist()
    questions = [Question.load(row["question"]) for row in rows]
    heard = mean.follow([row["question"] for row in rows], [row["points"] for row in rows])
    verdicts = judge.ask(questions, _count(len(rows), reporter), heard)
    return pa.Table.from_pylist(dump_verdicts(verdicts), schema=VERDICTS)


def _count(total: int, reporter: Reporter) -> Callable[[int], None]:
    done = 0

    def add(more: int) -> None:
        nonlocal done
        done += more
        reporter.progress(done, total)

    return add


class RunningMean:
    """The result so far of all that this process was asked."""

    def __init__(self, name: str, scale: float) -> None:
        self._name, self._scale = name, scale
        self._values: dict[str, float] = {}
        self._sum = 0.0

    def follow(self, keys: Sequence[str], points: Sequence[Sequence[float]]) -> Running:
        """What a judge calls with its verdicts on some questions.

        Args:
            keys: tell questions apart.
            points: of each question, of each of its labels.
        """

        def hear(number: int, verdict: Verdict) -> str:
            key, value = keys[number], verdict.expect(points[number])
            self._sum -= self._values.pop(key, 0.0)  # an unreadable answer is asked for again
            if value is not None:
                self._values[key] = value
                self._sum += value
            return f"{self._name} {self._scale * self._sum / len(self._values):.1f}" if self._values else ""

        return hear


def dump_verdicts(verdicts: Sequence[Verdict]) -> list[dict[str, object]]:
    """Rows of VERDICTS."""
    return [{"shares": v.shares, "reason": v.reason, "raw": v.raw, "shortened": v.shortened} for v in verdicts]


def load_verdicts(table: pa.Table) -> list[Verdict]:
    """The way back from rows of VERDICTS."""
    return [
        Verdict(None if r["shares"] is None else tuple(r["shares"]), r["reason"], r["raw"], r["shortened"])
        for r in table.to_pylist()
    ]
