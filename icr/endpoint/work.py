"""Questions that were given together, and what came of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from icr.endpoint.chat import Ask, NoAnswer
from icr.endpoint.reply import Reply

Heard = Callable[[int, Reply | NoAnswer], None]
"""(a question's number, what came of it)."""


class Work:
    """Questions and what came of them. Two equal ones, as equal answers make in both orders, are asked once."""

    def __init__(self, asks: Sequence[Ask], done: Callable[[int], None], heard: Heard | None) -> None:
        self.asks = asks
        self.replies: dict[int, Reply | NoAnswer] = {}
        self._done, self._heard = done, heard
        self._numbers: dict[Ask, list[int]] = {}
        self._settled: dict[Ask, Reply | NoAnswer] = {}

    def begin(self, number: int) -> Ask | None:
        """The question, or None where an equal one was begun before."""
        ask = self.asks[number]
        if ask in self._settled:
            self._put(number, self._settled[ask])
            return None
        equal = self._numbers.setdefault(ask, [])
        equal.append(number)
        return ask if len(equal) == 1 else None

    def settle(self, ask: Ask, reply: Reply | NoAnswer) -> None:
        self._settled[ask] = reply
        for number in self._numbers[ask]:
            self._put(number, reply)

    def keep(self, ask: Ask, ours: Reply, theirs: str | None) -> None:
        """An answer is on disk; `theirs` when another process had one sooner."""
        self.settle(ask, ours if theirs is None else Reply.model_validate_json(theirs))

    def _put(self, number: int, reply: Reply | NoAnswer) -> None:
        self.replies[number] = reply
        if self._heard:
            self._heard(number, reply)
        self._done(1)
