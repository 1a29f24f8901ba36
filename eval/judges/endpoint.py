"""The endpoint judge: questions to any OpenAI-compatible chat completions API, verdicts out of its replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

from eval.judges.base import Running
from eval.judges.question import Question, Verdict
from eval.judges.reading import read_reply
from icr.endpoint.endpoint import Ask, Endpoint, Estimate, NoAnswer
from icr.endpoint.reply import Reply

LABEL_TOKENS = 16
EXPLANATION_TOKENS = 1024
READINGS = 3
"""How often a question is asked if its answer cannot be read. Only the first time is at temperature 0."""


class EndpointJudge:
    """Judges through chat completions. Uses the label's log-probs when the endpoint returns them, else its text."""

    def __init__(self, endpoint: Endpoint, preference: str = "auto") -> None:
        """`preference`: what `eval.judges.reading.read_reply` takes."""
        self.endpoint = endpoint
        self._preference = preference
        self._unscored = 0

    def ask(
        self, questions: Sequence[Question], done: Callable[[int], None], running: Running | None = None
    ) -> list[Verdict]:
        """Raises UserError when the endpoint cannot be used at all; answers until then are in the cache."""
        verdicts: dict[int, Verdict] = {}
        todo = list(range(len(questions)))
        for reading in range(READINGS):
            self._read(questions, todo, reading, verdicts, done if reading == 0 else lambda more: None, running)
            todo = [n for n in todo if verdicts[n].reason in UNREADABLE]
        return [verdicts[n] for n in range(len(questions))]

    def _read(
        self,
        questions: Sequence[Question],
        todo: Sequence[int],
        reading: int,
        verdicts: dict[int, Verdict],
        done: Callable[[int], None],
        running: Running | None,
    ) -> None:
        """Ask the questions of the numbers `todo` and put their verdicts in `verdicts`, as they come."""

        def heard(place: int, reply: Reply | NoAnswer) -> None:
            number = todo[place]
            verdict = self._verdict(questions[number], reply)
            was_unscored = number in verdicts and verdicts[number].shares is None
            self._unscored += (verdict.shares is None) - was_unscored
            verdicts[number] = verdict
            result = running(number, verdict) if running is not None else ""
            parts = (result, str(self.endpoint.cost), f"{self._unscored} unscored")
            self.endpoint.reporter.status(", ".join(filter(None, parts)))

        self.endpoint.ask(_Asks(lambda place: self.ask_of(questions[todo[place]], reading), len(todo)), done, heard)

    def estimate(self, questions: Sequence[Question]) -> Estimate:
        """What asking these would take; nothing is sent. Further readings of unreadable answers come on top."""
        return self.endpoint.estimate([self.ask_of(q) for q in questions])

    def ask_of(self, question: Question, reading: int = 0) -> Ask:
        """The request that a question makes."""
        return Ask(
            messages=(("user", question.prompt()),),
            max_tokens=EXPLANATION_TOKENS if question.explained else LABEL_TOKENS,
            # the same words at temperature 0 would bring the same unreadable answer
            temperature=0.0 if reading == 0 else 0.5 + 0.1 * reading,
            label_logprobs=not question.explained and self._preference != "label",
        )

    def _verdict(self, question: Question, reply: Reply | NoAnswer) -> Verdict:
        if isinstance(reply, NoAnswer):
            return Verdict(None, reply.reason, reply.detail)
        if not question.explained and self._preference == "auto" and reply.choices[0].logprobs is None:
            self.endpoint.note_once(
                "the judge's endpoint returns no label probabilities: verdicts are read from its text"
            )
        return read_reply(reply, question, self._preference)


UNREADABLE = {"empty answer", "verdict outside the labels", "verdict cut off"}


class _Asks(Sequence[Ask]):
    """Requests that are made when their turn comes."""

    def __init__(self, make: Callable[[int], Ask], count: int) -> None:
        self._make, self._count = make, count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> Ask: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Ask]: ...

    def __getitem__(self, place: int | slice) -> Ask | Sequence[Ask]:
        if isinstance(place, slice):
            return [self._make(n) for n in range(self._count)[place]]
        return self._make(place)
