"""What a judge is asked and what it answers: one form for all benchmarks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from eval.judges.wording import PLACEHOLDER, Wording
from icr.base.conversation import Conversation, Role, dump_conversation, is_plain

CUT = " […]"
"""Ends a text that was cut to fit the judge's context."""


@dataclass(frozen=True)
class Question:
    """A judge prompt, the texts of others that go into it, and the labels that it may be answered with."""

    id: str
    template: str
    """The prompt with its placeholders (`eval.judges.prompts`): {name} of values and texts, {fence}, {reply} (how to
    answer), and {label_1}, {label_2}, …"""
    labels: tuple[str, ...]
    texts: tuple[tuple[str, str], ...]
    """(name, text) of what others wrote: models, users. It is fenced in."""
    values: tuple[tuple[str, str], ...] = ()
    """(name, value) of our own words, such as the language's name. What no template names is for judges of the
    user's."""
    cut: tuple[str, ...] = ()
    """Names of the texts that may be cut to fit the judge's context; all to the same length."""
    explained: bool = False
    """The judge may write before it decides, and sets its label in double brackets at the end."""
    graded: bool = False
    """The labels are grades, and what lies between two of them is a grade, too."""
    system: str = ""
    """A system message before the prompt; "" for none. It is filled in as the prompt is."""

    @classmethod
    def of(
        cls,
        id: str,
        wording: Wording,
        texts: tuple[tuple[str, str], ...],
        values: tuple[tuple[str, str], ...],
        cut: tuple[str, ...],
    ) -> Question:
        """What is asked in these words."""
        return cls(
            id, wording.text, wording.labels, texts, values, cut, explained=wording.explained, system=wording.system
        )

    def prompt(
        self, limit: int | None = None, labels: tuple[str, ...] | None = None, explained: bool | None = None
    ) -> str:
        """The text of the question, with the texts in `cut` cut to `limit` characters.

        A judge that cannot write before it decides is asked with `explained=False`.
        """
        return self._fill(self.template, limit, labels, explained)

    def messages(
        self, limit: int | None = None, labels: tuple[str, ...] | None = None, explained: bool | None = None
    ) -> tuple[tuple[Role, str], ...]:
        """(role, content) of what a judge is sent; the arguments are those of `prompt`."""
        asked: tuple[Role, str] = ("user", self.prompt(limit, labels, explained))
        return (("system", self._fill(self.system, limit, labels, explained)), asked) if self.system else (asked,)

    def _fill(self, template: str, limit: int | None, labels: tuple[str, ...] | None, explained: bool | None) -> str:
        """The fence that sets the texts apart is a hash of them: none can hold its own fence and so pretend to end
        early. It does not depend on their order.
        """
        texts = {name: _cut(text, limit) if name in self.cut else text for name, text in self.texts}
        values = dict(self.values) | texts
        labels = labels or self.labels
        values |= {f"label_{i}": label for i, label in enumerate(labels, 1)}
        values["reply"] = _reply(labels, self.explained if explained is None else explained)
        fence = hashlib.sha256(json.dumps(sorted(texts.values())).encode()).hexdigest()[:6]
        return fill(template, values | {"fence": fence})

    def dump(self) -> str:
        """As JSON; `load` is the way back."""
        found = dict(vars(self))  # `asdict` copies every text, and a question is dumped several times
        if not self.system:  # as questions were before there were system messages, so that verdicts on them stay
            del found["system"]
        return json.dumps(found, ensure_ascii=False)

    @classmethod
    def load(cls, text: str) -> Question:
        found = json.loads(text)
        pairs = {name: tuple((key, value) for key, value in found[name]) for name in ("texts", "values")}
        return cls(**found | pairs | {name: tuple(found[name]) for name in ("labels", "cut")})

    @property
    def names_labels(self) -> bool:
        """Whether the prompt names its labels by placeholders alone, so that they may be called otherwise."""
        return "{label_1}" in self.template or "{reply}" in self.template

    @property
    def longest(self) -> int:
        """Characters of the longest text that may be cut."""
        return max((len(text) for name, text in self.texts if name in self.cut), default=0)


@dataclass(frozen=True)
class Verdict:
    """A judge's answer to a `Question`: a share for each label, or the reason why there is none."""

    shares: tuple[float, ...] | None
    """In the order of the question's labels, of sum 1. None when unscored."""
    reason: str | None = None
    """Why it is unscored: one of few kinds, which are counted. `raw` has the details."""
    raw: str = ""
    """What the judge answered, for people to look up."""
    shortened: bool = False

    @classmethod
    def of_label(cls, question: Question, label: str, raw: str) -> Verdict:
        """All for one label."""
        return cls(tuple(float(label == other) for other in question.labels), None, raw)

    def expect(self, points: Sequence[float]) -> float | None:
        """The mean of `points`, one a label, weighted by the shares; None when unscored."""
        if self.shares is None:
            return None
        return sum(share * point for share, point in zip(self.shares, points, strict=True))


def pass_messages(prompt: Conversation) -> tuple[tuple[str, str], ...]:
    """The value `messages` of a question on answers to a conversation. A plain text is its own message: it needs none,
    and questions on it stay as they were before there were conversations."""
    return () if is_plain(prompt) else (("messages", dump_conversation(prompt)),)


def _reply(labels: tuple[str, ...], explained: bool) -> str:
    choice = f"one of {', '.join(labels)}"
    if explained:
        return (
            "First explain your judgment in a few sentences. "
            f"Then end with your verdict, {choice}, set between double brackets: [[…]]"
        )
    return f"Reply with your verdict, {choice}, and nothing else."


def fill(text: str, values: Mapping[str, str]) -> str:
    """Put `values` in place of {name}, in one pass: what is put in is never searched and may hold "{name}" itself."""

    return "".join(values[part] if named else part for part, named in _parts(text))


@lru_cache(64)
def _parts(text: str) -> tuple[tuple[str, bool], ...]:
    """A template in pieces: (what stays as it is, False) and (name, True). Thousands of questions share one."""
    found, end = list[tuple[str, bool]](), 0
    for match in PLACEHOLDER.finditer(text):
        found += [(text[end : match.start()], False), (match[2], True) if match[2] else (f"{{{match[1]}}}", False)]
        end = match.end()
    return (*found, (text[end:], False))


def _cut(text: str, limit: int | None) -> str:
    return text if limit is None or len(text) <= limit else text[:limit] + CUT
