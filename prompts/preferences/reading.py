"""What is found while a source is read: rows, what was left out and why, and every problem."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import NamedTuple

from icr.base.conversation import dump_conversation
from icr.base.errors import UserError
from icr.languages import language_code
from prompts.hub import is_hub_name
from prompts.ids import normalise_id
from prompts.preferences.rows import PairRow, RatingRow
from prompts.preferences.sides import Sides
from prompts.tables import Rows

NO_LANGUAGE = "language unknown"
SAME = "same response twice"
Fields = Mapping[str, object]


class LeftOut(Exception):
    """A row that is right in its form and is not used; the argument says why, in words for the user."""


class Preference(NamedTuple):
    """What a form's reader gives for a row: two responses, and how much better the first one is."""

    sides: Sides
    margin: float | None = None


PairReader = Callable[[Fields, str], Preference]
"""(row, place) → its preference. Raises UserError, or LeftOut."""


@dataclass
class Reading:
    """One source, as it is read."""

    source: str
    lang: str | None = None
    """Of rows that do not name theirs."""
    lenient: bool = False
    """A published data set: rows without a preference are left out, not errors, as users cannot fix them."""
    pairs: list[PairRow] = field(default_factory=list)
    ratings: list[RatingRow] = field(default_factory=list)
    rows: Counter[str] = field(default_factory=Counter)
    """By language, as the source counts them."""
    left_out: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """Language → reason → rows."""
    notes: list[str] = field(default_factory=list)
    problems: list[UserError] = field(default_factory=list)
    kept_deleted: int = 0
    """Of OASST: messages that were deleted after people had ranked them."""
    _ids: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the source, as tables and reports have it: without this machine's folders."""
        return self.source if is_hub_name(self.source) else PurePath(self.source).name

    def leave_out(self, lang: str, reason: str) -> None:
        self.left_out[lang][reason] += 1

    def language(self, row: Fields, *names: str) -> str | None:
        """The language of a row, as it names it; else `lang`. None: unknown, also where the row names one that is not
        a language ("python"), which `lang` does not override."""
        named = named_language(row, *names)
        return self.lang if named is None else language_code(named)

    def each(self, rows: Rows, *names: str) -> Iterator[tuple[str, Fields, str]]:
        """(place, row, language) of the rows, counted; those without a language are left out.

        Args:
            names: as for `language`.
        """
        for where, value in rows:
            row = value if isinstance(value, dict) else {}
            lang = self.language(row, *names)
            self.rows[lang or "?"] += 1
            if lang is None:
                self.leave_out("?", NO_LANGUAGE)
            else:
                yield where, row, lang

    @contextmanager
    def noting(self, lang: str) -> Iterator[None]:
        """What is raised of a row: LeftOut is counted under its language, a UserError is one of the problems."""
        try:
            yield
        except LeftOut as reason:
            self.leave_out(lang, str(reason))
        except UserError as error:
            self.problems.append(error)

    def new_id(self, lang: str, given: object, contents: tuple[str, ...], where: str) -> str:
        """The row's id: its own, else a hash of its contents. Translations of a row may share its id.

        Raises:
            UserError: another row has it.
            LeftOut: without an id of its own, a row with the same contents was there already.
        """
        id = normalise_id(given, where)
        name = id or digest(*contents)
        before = self._ids.setdefault(f"{lang}\n{name}", where)
        if before != where:
            if id is None:
                raise LeftOut("repeated")
            raise UserError(f"id {id} appears twice", where=f"{where} and {before}", do="give every row its own id")
        return name

    def add_pair(self, row: Fields, where: str, lang: str, found: Preference) -> None:
        """Keep a pair. Raises as `new_id`."""
        prompt = dump_conversation(found.sides.prompt)
        chosen, rejected = found.sides.chosen, found.sides.rejected
        id = self.new_id(lang, row.get("id"), (prompt, chosen, rejected), where)
        named = normalise_id(row.get("group", row.get("prompt_id")), where)
        group = named or (digest(prompt) if prompt else digest(chosen, rejected))
        self.pairs.append(
            {
                "id": id,
                "lang": lang,
                "prompt": prompt,
                "chosen": chosen,
                "rejected": rejected,
                "source": str(row.get("source") or self.name),
                "group": group,
                "margin": found.margin,
            }
        )


def named_language(row: Fields, *names: str) -> str | None:
    """What a row calls its language, under the first of these names that it fills; None where it fills none."""
    values = (row.get(name) for name in names)
    return next((value for value in values if isinstance(value, str) and value.strip()), None)


def digest(*texts: str) -> str:
    """A short name for texts."""
    return hashlib.sha256("\x1f".join(texts).encode()).hexdigest()[:16]


def read_number(row: Fields, name: str, where: str) -> float:
    """A column of numbers, also as csv writes them.

    Raises:
        UserError: it is missing, or not a number.
    """
    value = row.get(name)
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        return float(value)
    except ValueError:
        shown = "is missing" if value is None else f"is {value!r}, which is not a number"
        raise UserError(f"`{name}` {shown}", where=where, do="write a number") from None


def read_text(row: Fields, name: str, where: str) -> str:
    """A column of texts.

    Raises:
        UserError: it is missing, blank, or something else.
    """
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        shown = "missing" if value is None else "empty" if isinstance(value, str) else "not a text"
        raise UserError(f"`{name}` is {shown}", where=where, do="write a text, or remove the row")
    return value
