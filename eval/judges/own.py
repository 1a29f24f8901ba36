"""A custom judge: one class in one file outside the package; docs/evaluation.md shows one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, TypedDict

from eval.judges.base import Running
from eval.judges.question import Question, Verdict
from icr.base.conversation import Conversation, load_conversation, wrap_text
from icr.base.errors import UserError
from icr.base.plugins import Own

OWN = Own("judge.kind", "preferences", "docs/evaluation.md")
COMPARING = ("xalpaca", "accuracy", "nlp")
"""Benchmarks that compare two answers, or need no judge; MT-Bench needs grades."""


class Row(TypedDict):
    """Two answers to one prompt."""

    prompt_id: str
    lang: str
    """Two-letter code (ISO 639-1) of the prompt's language."""
    instruction: str
    """The prompt as one text."""
    messages: Conversation
    """The same as a list of {role, content}."""
    first: str
    """The first answer."""
    second: str
    """The second answer."""


class Preferences(Protocol):
    """What a custom class must have. It is created without arguments, once in the worker that judges.

    It may also have `rule: str`, which says what it prefers: results show it behind the class's name.
    """

    def preferences(self, rows: list[Row]) -> Sequence[float]:
        """How much the first answer is preferred, per row: 1 the first is better, 0 the second is better, 0.5 neither.

        With `judge.orders: both` every pair comes in both orders.
        """


def check_own_judge(name: str, benchmarks: Sequence[str], key: str = "judge.kind") -> None:
    """Whether the class can be loaded and the benchmarks are such that it can judge.

    Args:
        key: the config key or option that names the class, for messages.

    Raises:
        UserError: it cannot.
    """
    others = [benchmark for benchmark in benchmarks if benchmark not in COMPARING]
    if others:
        raise UserError(
            f"a custom judge can only compare answers, but {', '.join(others)} needs grades",
            where=f"{key}: {name}",
            do="use --judge local:MODEL or openai:MODEL" if key == "--judge" else "use judge.kind local or openai",
        )
    replace(OWN, key=key).load(name)


def find_rule(name: str) -> str | None:
    """What a custom class says that it prefers, if it says it."""
    rule = getattr(OWN.load(name), "rule", None)
    return rule if isinstance(rule, str) else None


class OwnJudge:
    """Asks the custom class. Raises UserError if it cannot be created."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._judge: Preferences = OWN.make(name)

    def ask(
        self, questions: Sequence[Question], done: Callable[[int], None], running: Running | None = None
    ) -> list[Verdict]:
        """Verdicts from the class's preferences. Raises UserError if it fails or returns something else."""
        rows = list(map(_make_row, questions))
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


def _make_row(question: Question) -> Row:
    texts, values = dict(question.texts), dict(question.values)
    messages = load_conversation(values["messages"]) if "messages" in values else wrap_text(texts["instruction"])
    return {
        "prompt_id": question.id,
        "lang": values["lang"],
        "instruction": texts["instruction"],
        "messages": messages,
        "first": texts["first"],
        "second": texts["second"],
    }


def _shares(first: float, labels: int) -> tuple[float, ...]:
    """For the first answer, the second, and, where the question has a third label, neither of them."""
    if labels == 2:
        return first, 1 - first
    return max(2 * first - 1, 0.0), max(1 - 2 * first, 0.0), 1 - abs(2 * first - 1)


def _row_name(row: Row) -> str:
    return f"prompt_id {row['prompt_id']}, language {row['lang']}"
