"""A judge of the user's own: one class in one file outside the package; docs/evaluation.md shows one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from eval.judges.base import Running
from eval.judges.question import Question, Verdict
from icr.base.errors import UserError
from icr.base.plugins import Own

OWN = Own("judge.kind", "preferences", "docs/evaluation.md")
COMPARING = ("xalpaca", "accuracy", "nlp")
"""Benchmarks that compare two answers, or need no judge; MT-Bench wants grades."""
Row = dict[str, Any]


class Preferences(Protocol):
    """What a user's class has to be. It is made without arguments, once in the worker that judges."""

    def preferences(self, rows: list[Row]) -> Sequence[float]:
        """For each row how much the first answer is preferred: 1 wholly, 0 the second wholly, 0.5 neither.

        Each row has `prompt_id`, `lang`, `instruction`, `first` and `second`. With `judge.orders: both` every pair
        comes in both orders.
        """


def check_own_judge(name: str, benchmarks: Sequence[str]) -> None:
    """Whether the class can be loaded and the benchmarks are such that it can judge. Raises UserError."""
    others = [benchmark for benchmark in benchmarks if benchmark not in COMPARING]
    if others:
        raise UserError(
            f"a custom judge can only compare answers, but {', '.join(others)} needs grades",
            where=OWN.where(name),
            do=f"use judge.kind local or openai for {', '.join(others)}",
        )
    OWN.load(name)


class OwnJudge:
    """Asks the user's class. Raises UserError when it cannot be made."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._judge: Preferences = OWN.make(name)

    def ask(
        self, questions: Sequence[Question], done: Callable[[int], None], running: Running | None = None
    ) -> list[Verdict]:
        """Verdicts from the class's preferences. Raises UserError when it fails or says what is no preference."""
        rows = [{"prompt_id": q.id, "lang": dict(q.values)["lang"], **dict(q.texts)} for q in questions]
        firsts = OWN.call(self._judge, self._name, rows, _row_name, 0, 1)
        verdicts = [
            Verdict(_shares(first, len(q.labels)), None, f"{first:g} for the first")
            for q, first in zip(questions, firsts, strict=True)
        ]
        for number, verdict in enumerate(verdicts):
            if running is not None:
                running(number, verdict)
        done(len(verdicts))
        return verdicts


def _shares(first: float, labels: int) -> tuple[float, ...]:
    """For the first answer, the second, and, where the question has a third label, neither of them."""
    if labels == 2:
        return first, 1 - first
    return max(2 * first - 1, 0.0), max(1 - 2 * first, 0.0), 1 - abs(2 * first - 1)


def _row_name(row: Row) -> str:
    return f"prompt_id {row['prompt_id']}, language {row['lang']}"
