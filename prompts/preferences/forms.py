"""Which public form a source has, by its columns, and its reader."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from icr.base.errors import UserError, some
from prompts.hub import is_hub_name
from prompts.load import read_source
from prompts.preferences import oasst, pair_forms
from prompts.preferences.ratings import read_ratings
from prompts.preferences.reading import Fields, PairReader, Reading
from prompts.preferences.seahorse import QUESTION, read_annotations
from prompts.tables import Rows

KEY = "SOURCE"


@dataclass(frozen=True)
class Options:
    """What a source does not say of itself."""

    format: str | None = None
    """A key of FORMS. None: by the columns."""
    lang: str | None = None
    """Of rows that do not name theirs."""
    question: str = QUESTION
    """Of Seahorse."""
    documents: Mapping[str, str] = field(default_factory=dict)
    """Of Seahorse: gem_id → text."""


class Form(NamedTuple):
    """A public form."""

    fits: Callable[[Fields], bool]
    """Whether a row with these columns may have it."""
    read: Callable[[Reading, Rows, Options], None]


def _has(*names: str) -> Callable[[Fields], bool]:
    return lambda row: set(names) <= row.keys()


def _pairs(fits: Callable[[Fields], bool], read: PairReader) -> Form:
    return Form(fits, lambda reading, rows, options: pair_forms.read_pairs(reading, rows, read))


def _is_transcript(row: Fields) -> bool:
    sides = [row.get(name) for name in ("chosen", "rejected")]
    return all(isinstance(side, str) and side.startswith("\n\nHuman:") for side in sides) and "prompt" not in row


def is_benchmark(row: Fields) -> bool:
    """RewardBench, 2 and Multilingual: `icr rm bench` reads them."""
    return {"prompt", "chosen", "rejected"} <= row.keys() and (
        "subset" in row or {"language", "category"} <= row.keys() or _lists_texts(row)
    )


def _lists_texts(row: Fields) -> bool:
    chosen = row.get("chosen")
    return isinstance(chosen, list) and bool(chosen) and all(isinstance(text, str) for text in chosen)


FORMS: dict[str, Form] = {
    "icr": _pairs(_has("id", "lang", "prompt", "chosen", "rejected", "source", "group"), pair_forms.read_own),
    "ratings": Form(_has("response", "label"), lambda reading, rows, _: read_ratings(reading, rows)),
    "oasst": Form(_has("message_id", "parent_id", "role"), lambda reading, rows, _: oasst.read_messages(reading, rows)),
    "oasst-trees": Form(
        lambda row: isinstance(row.get("prompt"), dict), lambda reading, rows, _: oasst.read_trees(reading, rows)
    ),
    "seahorse": Form(
        _has("gem_id", "worker_lang", "summary"),
        lambda reading, rows, options: read_annotations(reading, rows, options.question, options.documents),
    ),
    "helpsteer3": _pairs(_has("context", "response1", "response2", "overall_preference"), pair_forms.read_preferred),
    "ultrafeedback": _pairs(
        _has("chosen", "rejected", "score_chosen", "score_rejected"), pair_forms.read_scored
    ),
    "llamafactory": _pairs(_has("conversations", "chosen", "rejected"), pair_forms.read_sharegpt),
    "hh": _pairs(_is_transcript, pair_forms.read_transcripts),
    "trl": _pairs(
        lambda row: {"chosen", "rejected"} <= row.keys() and not is_benchmark(row) and not _is_transcript(row),
        pair_forms.read_plain,
    ),
}  # fmt: skip
"""The first that fits is taken: a form that adds columns to another one is before it."""


def read_preferences(source: str, options: Options) -> Reading:
    """Read a source in whatever form it has. What is wrong with it is in the reading's problems.

    Args:
        source: a jsonl, json, csv, tsv or parquet file (each also .gz), or a data set on the hub (`hf:org/name`).

    Raises:
        UserError: there is no such source; its form is unknown.
    """
    reading = Reading(source, options.lang, lenient=is_hub_name(source))
    rows = read_source(source, KEY, reading.problems)
    first = next(rows, None)
    if first is None:
        if not reading.problems:
            raise UserError("the source has no rows", where=source, do="name a source with rows")
        return reading
    name = options.format or _guess(first[1], first[0])
    if name not in FORMS:
        raise UserError(f"unknown format {name}", where="--format", do=f"write one of {', '.join(FORMS)}")
    FORMS[name].read(reading, chain([first], rows), options)
    return reading


def _guess(value: object, where: str) -> str:
    """The form of a row. Raises UserError where none fits, or the row is of a benchmark."""
    row = value if isinstance(value, dict) else {}
    found = next((name for name, form in FORMS.items() if form.fits(row)), None)
    if found is not None:
        return found
    if is_benchmark(row):
        what = "these are rows of a benchmark, which are not data to train on"
        raise UserError(what, where=where, do="measure reward models on them with icr rm bench, or set --format")
    raise UserError(
        f"no known form of preference data has the columns {some(map(str, row)) or '(none)'}",
        where=where,
        do=f"convert it to one of {', '.join(FORMS)} (docs/reward-models.md)",
    )


def read_documents(path: str) -> dict[str, str]:
    """A table of `gem_id` and `document` for Seahorse.

    Raises:
        UserError: a row lacks one of them; there is no such file.
    """
    problems: list[UserError] = []
    found = dict(_documents(read_source(path, "--documents", problems)))
    if problems:
        raise problems[0]
    return found


def _documents(rows: Rows) -> Iterator[tuple[str, str]]:
    for where, value in rows:
        row = value if isinstance(value, dict) else {}
        article, text = row.get("gem_id"), row.get("document")
        if not isinstance(article, str) or not isinstance(text, str) or not text.strip():
            raise UserError("a row without `gem_id` and `document`", where=where, do="add both")
        yield article, text
