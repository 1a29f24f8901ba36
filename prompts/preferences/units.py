"""A row of preference data on its way into other languages: its texts, what is asked, and what comes back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

from icr.base.conversation import Conversation, dump_conversation, is_plain, load_conversation
from icr.endpoint.endpoint import Ask, NoAnswer
from icr.endpoint.reply import Reply
from prompts.asking import ANSWER, MESSAGE, make_ask, read_translation
from prompts.preferences.reading import SAME
from prompts.preferences.rows import RatingRow, Row

VIA = ">"
"""Between the languages of an id."""


class Part(NamedTuple):
    """A text of a row."""

    name: str
    """`prompt`, `chosen`, `rejected` or `response`."""
    text: str
    what: str
    """As the translator reads it."""
    turn: bool
    """Whether a short text may stay as it is."""


@dataclass(frozen=True)
class Unit:
    """A row, as far as it is translated."""

    row: Row
    """As it was."""
    split: int
    """0: training, 1: validation."""
    path: tuple[str, ...]
    """The languages that it goes through: (en, es), or (en, es, en) and back."""
    parts: Sequence[Part]
    """In the language `path[hops]`."""
    hops: int = 0
    dropped: str | None = None
    """Why: the part that failed, and the first thing that is wrong with it."""
    detail: str = ""

    @property
    def asks(self) -> list[Ask]:
        """What is asked to bring it into its next language."""
        here, there = self.path[self.hops : self.hops + 2]
        return [make_ask(part.text, here, there, part.what) for part in self.parts]

    @property
    def lang(self) -> str:
        """That it ends in."""
        return self.path[-1]


def make_unit(row: Row, split: int, path: tuple[str, ...]) -> Unit:
    return Unit(row, split, path, _split(row))


def move(unit: Unit, answers: Iterator[Reply | NoAnswer]) -> Unit:
    """The unit in its next language, by the answers to its asks. One part that fails drops all of it."""
    here, there = unit.path[unit.hops : unit.hops + 2]
    parts, reason, detail = [], None, ""
    for part in unit.parts:
        text, checked = read_translation(part.text, here, there, next(answers), turn=part.turn)
        parts.append(part._replace(text=text))
        if checked.findings and reason is None:
            reason, detail = f"{part.name}: {checked.findings[0].reason}", checked.findings[0].detail
    texts = {part.name: part.text for part in parts}
    if reason is None and "chosen" in texts and texts["chosen"] == texts["rejected"]:
        reason = SAME
    return replace(unit, parts=parts, hops=unit.hops + 1, dropped=reason, detail=detail)


def make_row(unit: Unit) -> Row:
    """The translated row. Its id says where it comes from; group, margin and label stay."""
    texts = {part.name: part.text for part in unit.parts if part.name != "prompt"}
    changed = {
        "id": f"{unit.row['id']}:{VIA.join(unit.path)}",
        "lang": unit.lang,
        "prompt": _join(unit.row["prompt"], [part.text for part in unit.parts if part.name == "prompt"]),
        **texts,
    }
    return cast(Row, {**unit.row, **changed})


def _split(row: Row) -> list[Part]:
    """Every message of the prompt, if there is one, and every response."""
    if "response" in row:
        answers = [("response", cast(RatingRow, row)["response"])]
    else:
        answers = [("chosen", row["chosen"]), ("rejected", row["rejected"])]
    prompt: Conversation = load_conversation(row["prompt"]) if row["prompt"] else []
    messages = [Part("prompt", m["content"], MESSAGE, not is_plain(prompt)) for m in prompt]
    return [*messages, *(Part(name, text, ANSWER, True) for name, text in answers)]


def _join(prompt: str, texts: Sequence[str]) -> str:
    """A prompt as tables hold it, with other texts in its messages."""
    if not prompt:
        return prompt
    messages = zip(load_conversation(prompt), texts, strict=True)
    return dump_conversation([{"role": message["role"], "content": text} for message, text in messages])
