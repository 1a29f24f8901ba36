"""Ratings in our own form: `prompt`, `response` and a `label` of 0 or 1."""

from __future__ import annotations

from icr.base.conversation import dump_conversation, wrap_text
from icr.base.errors import UserError
from prompts.ids import normalise_id
from prompts.messages import check_order, read_messages
from prompts.preferences.reading import Fields, Reading, digest, read_text
from prompts.tables import Rows

LABELS: dict[object, int] = {1: 1, 0: 0, "1": 1, "0": 0}


def read_ratings(reading: Reading, rows: Rows) -> None:
    """Every row of a source."""
    for where, row, lang in reading.each(rows, "lang", "language"):
        with reading.noting(lang):
            _add(reading, row, where, lang)


def _add(reading: Reading, row: Fields, where: str, lang: str) -> None:
    label = row.get("label")
    if isinstance(label, list | dict) or label not in LABELS:
        what = "`label` is missing" if label is None else f"the label {label!r} is neither 0 nor 1"
        raise UserError(what, where=where, do="write 1 for good, 0 for not good")
    prompt, response = _read_prompt(row, where), read_text(row, "response", where)
    reading.ratings.append(
        {
            "id": reading.new_id(lang, row.get("id"), (prompt, response, str(label)), where),
            "lang": lang,
            "prompt": prompt,
            "response": response,
            "label": LABELS[label],
            "source": str(row.get("source") or reading.name),
            "group": normalise_id(row.get("group"), where) or digest(prompt or response),
        }
    )


def _read_prompt(row: Fields, where: str) -> str:
    """A text, which may be empty, a conversation as tables hold it, or messages."""
    value = row.get("prompt", "")
    if isinstance(value, list):
        return dump_conversation(check_order(read_messages(value, f"{where}, `prompt`"), f"{where}, `prompt`"))
    if not isinstance(value, str):
        raise UserError("`prompt` is not a text", where=where, do="write a text or a list of messages")
    return dump_conversation(wrap_text(value)) if value.strip() else ""
