"""What a judge is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from eval.judges.question import Question, Verdict

Running = Callable[[int, Verdict], str]
"""(a question's number, its verdict so far) → the result until now, in words for the user."""


class Judge(Protocol):
    def ask(
        self, questions: Sequence[Question], done: Callable[[int], None], running: Running | None = None
    ) -> list[Verdict]:
        """One verdict per question, in order; `done(k)` is called when k more of them are ready.

        `running` is called with each verdict as it comes; what it returns is shown beside the progress.
        """
