"""The endpoint judge: questions to any OpenAI-compatible chat completions API, verdicts out of its replies."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import overload

from eval.judges.base import Running
from eval.judges.question import Question, Verdict
from eval.judges.reading import EXPLANATION, THOUGHT_ONLY, UNREADABLE, VERDICT, read_reply
from icr.base.errors import UserError
from icr.config.schema import Judge as JudgeConfig
from icr.endpoint.endpoint import Ask, Endpoint, NoAnswer
from icr.endpoint.prices import Estimate
from icr.endpoint.reply import Reply

LABEL_TOKENS = 16
JSON_TOKENS = 16
"""More of them for what is around a label in JSON."""
EXPLANATION_TOKENS = 1024
REASONING_TOKENS = 4096
READINGS = 3
"""How often a question is asked if its answer cannot be read. Only the first time is at temperature 0."""
PAID_FOR_NOTHING = 20
"""After so many answers of which none was a verdict, no more are paid for."""


class EndpointJudge:
    """Judges through chat completions. Uses the label's log-probs when the endpoint returns them, else its text."""

    def __init__(self, endpoint: Endpoint, config: JudgeConfig | None = None) -> None:
        """`config`: how questions are asked and answers are read; the endpoint has been made by the same."""
        config = config or JudgeConfig()
        self.endpoint = endpoint
        self._preference = config.preference
        self._temperature, self._tokens = config.verdict_temperature, config.verdict_tokens
        self._structured = config.structured
        self._reasons = config.reasoning_effort not in (None, "none")
        self._unscored = self._scored = 0
        self._unread: Counter[str] = Counter()

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
            self._stop_for_nothing(verdict)
            was_unscored = number in verdicts and verdicts[number].shares is None
            self._unscored += (verdict.shares is None) - was_unscored
            verdicts[number] = verdict
            result = running(number, verdict) if running is not None else ""
            parts = (result, str(self.endpoint.cost), f"{self._unscored} unscored")
            self.endpoint.reporter.status(", ".join(filter(None, parts)))

        self.endpoint.ask(_Asks(lambda place: self.ask_of(questions[todo[place]], reading), len(todo)), done, heard)

    def _stop_for_nothing(self, verdict: Verdict) -> None:
        """Raises UserError when answers are paid for and none of them is a verdict."""
        self._scored += verdict.shares is not None
        if verdict.reason in UNREADABLE:
            self._unread[verdict.reason] += 1
        if self._scored or self._unread.total() < PAID_FOR_NOTHING:
            return
        reasons = ", ".join(f"{reason} {count}" for reason, count in self._unread.most_common())
        more_room = "set judge.verdict_tokens to 4096 or more, or have it reason less: judge.reasoning_effort, or "
        raise UserError(
            f"{self._unread.total()} answers of the judge {self.endpoint.model} have no verdict ({reasons})",
            where=f"the last answer: {' '.join(verdict.raw.split())[-200:] or 'empty'}",
            do=f"{more_room}judge.extra_body with the server's switch"
            if THOUGHT_ONLY in self._unread
            else "name another model in judge.model, or give it more room with judge.verdict_tokens",
        )

    def estimate(self, questions: Sequence[Question]) -> Estimate:
        """What asking these would take at most, with every reading of answers that cannot be read; nothing is sent."""
        readings = [list(self._readings(question)) for question in questions]
        first = self.endpoint.estimate([asks[0] for asks in readings])
        again = self.endpoint.estimate([ask for asks in readings for ask in asks[1:]])
        usd = None if first.usd is None or again.usd is None else first.usd + again.usd
        return replace(first, completion_tokens=first.completion_tokens + again.completion_tokens, usd=usd)

    def _readings(self, question: Question) -> Iterator[Ask]:
        """The requests that a question may take; those after a verdict that is there already are not made."""
        for reading in range(READINGS):
            ask = self.ask_of(question, reading)
            yield ask
            kept = self.endpoint.find(ask)
            if kept is not None and read_reply(kept, question, self._preference).reason not in UNREADABLE:
                return

    def ask_of(self, question: Question, reading: int = 0) -> Ask:
        """The request that a question makes."""
        # the same words at temperature 0 would bring the same unreadable answer
        warmer = 0.0 if reading == 0 else 0.5 + 0.1 * reading
        given = self._temperature
        return Ask(
            messages=question.messages(),
            max_tokens=self._tokens or self._room(question),
            temperature=warmer if given is None else given,
            label_logprobs=not question.explained and self._preference != "label",
            schema=_schema(question.labels, question.explained) if self._structured else "",
            again=0 if given is None else reading,
        )

    def _room(self, question: Question) -> int:
        if self._reasons:
            return REASONING_TOKENS
        room = EXPLANATION_TOKENS if question.explained else LABEL_TOKENS
        return room + JSON_TOKENS if self._structured else room

    def _verdict(self, question: Question, reply: Reply | NoAnswer) -> Verdict:
        if isinstance(reply, NoAnswer):
            return Verdict(None, reply.reason, reply.detail)
        logprobs = reply.choices[0].logprobs
        tokens = (logprobs.content if logprobs else None) or []
        if not question.explained and self._preference == "auto" and not any(t.top_logprobs for t in tokens):
            self.endpoint.note_once(
                "the judge's endpoint returns no label probabilities: verdicts are read from its text"
            )
        return read_reply(reply, question, self._preference)


@cache
def _schema(labels: tuple[str, ...], explained: bool) -> str:
    """JSON with one of the labels; with an explanation before it, as properties are written in their order."""
    properties: dict[str, object] = {EXPLANATION: {"type": "string"}} if explained else {}
    properties[VERDICT] = {"type": "string", "enum": list(labels)}
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return json.dumps(schema)


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
