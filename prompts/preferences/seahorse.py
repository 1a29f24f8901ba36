"""Seahorse: summaries in six languages, with answers of people to six questions. Yes is 1, No is 0."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping

from icr.base.errors import UserError
from prompts.preferences.reading import Fields, LeftOut, Reading, read_text
from prompts.tables import Rows

QUESTION = "question6"
"""Whether the summary is concise and represents the main points: what RMT trains on."""
LABELS = {"yes": 1, "no": 0}
ESCAPE = re.compile(r"\\u[0-9a-fA-F]{4}")


def read_annotations(reading: Reading, rows: Rows, question: str, documents: Mapping[str, str]) -> None:
    """The answers to one question.

    Args:
        question: the column's name.
        documents: gem_id → what the summary is of; may be empty.
    """
    found = list(reading.each(rows, "worker_lang"))
    escaped = any(ESCAPE.search(str(row.get("summary"))) for _, row, _ in found)
    if escaped:
        reading.notes.append(f"{reading.name}: summaries are JSON-escaped (first release); they are unescaped")
    copies: Counter[str] = Counter()
    for where, row, lang in found:
        with reading.noting(lang):
            _add(reading, row, where, lang, question, documents, escaped, copies)


def _add(
    reading: Reading, row: Fields, where: str, lang: str, question: str,
    documents: Mapping[str, str], escaped: bool, copies: Counter[str],
) -> None:  # fmt: skip
    answer = row.get(question)
    if not isinstance(answer, str):
        raise UserError(f"no column {question}", where=where, do="name the column with --question")
    word = answer.strip().lower()
    if word in ("", "unsure"):
        raise LeftOut(f"{question} {'Unsure' if word else 'empty'}")
    if word not in LABELS:
        raise UserError(f"`{question}` is {answer!r}", where=where, do="write Yes, No, Unsure or nothing")
    article = str(row.get("gem_id") or "").strip()
    if not article:
        raise LeftOut("no gem_id")
    if documents and article not in documents:
        raise LeftOut("no document")
    summary = read_text(row, "summary", where)
    name = f"{reading.name.partition('.')[0]}/{article}/{row.get('model') or 'summary'}"
    copies[name] += 1
    reading.ratings.append(
        {
            "id": f"{name}/{copies[name]}",
            "lang": lang,
            "prompt": documents.get(article, ""),
            "response": _unescape(summary) if escaped else summary,
            "label": LABELS[word],
            "source": reading.name,
            "group": article,
        }
    )


def _unescape(text: str) -> str:
    """What JSON's escapes stand for; a text that is not a JSON string stays as it is."""
    try:
        return str(json.loads(f'"{text}"'))
    except ValueError:
        return text
