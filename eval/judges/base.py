"""What a judge is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from eval.judges.question import Question, Verdict

Running = Callable[[int, Verdict], str]
"""(a question's number, its verdict so far) → the result until now, in words for the user."""


class Judge(Protocol):
    name: str
    """Kind, model and how it is read. Verdicts under another name are made anew."""
    shard_size: int
    """Questions to a piece: what a kill loses at most, and what `ask` is given at a time."""

    def ask(
        self, questions: Sequence[Question], done: Callable[[int], None], running: Running | None = None
    ) -> list[Verdict]:
        """One verdict per question, in order; `done(k)` is called when k more of them are ready.

        `running` is told each verdict as it comes; what it returns is shown beside the progress.
        """

    def cost(self) -> dict[str, Any] | None:
        """What the answers to all questions so far cost, whoever paid: calls, tokens, usd. None: nothing is paid."""
