"""What users read is plain English: words that read as translated, and were taken out once, do not come back.

docs/messages.md has every message and docs/config.md every key, so the pages and the help of the commands are enough.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from icr.commands.main import app
from tests.commands.test_docs import PAGES, ROOT

INSTEAD = {
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\bpassed over\b": "skipped",
    r"\banew\b": "again",
    r"\bthis-many\b": "N",
    r"\bof your own\b": "custom, or your",
    r"\buntold\b": "unknown",
    r"\blies in\b": "is in",
    r"\bUS dollars at which\b": "Stop after spending",
    r"(?<!there )\bis no (file|folder|text|number|list|model|config)\b": "is not a …",
    r"\bthere is no folder …|\bthere is no such\b": "not found",
    r", too(?=[,.;:)|]|$)": "also",
    r"(?-i:\bKilled(,| anywhere))": "If it is killed, the same command continues",
    r"\bhangs? on\b": "depends on",
    r"\bshar(e|es|ed|ing) out\b": "split over",
    r"\bsurer\b(?! of)": "more precise",
    r"\btakes? own\b": "takes separate",
    r"\bin the place of\b": "instead of",
    r"\bso many times\b": "N times",
    r"\bis to (have|take)\b": "needs, or asks for",
    r"\bknows? (nothing )?of (the|what|Ray|any|no)\b": "covers, or does not see",
    r"\bpaid twice\b": "paid for twice",
}
SOURCES = [*PAGES, ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


def helps(command: Any, name: str = "icr") -> Iterator[tuple[str, str]]:
    """Name and help of each command and each of its options."""
    yield name, command.help or ""
    for parameter in command.params:
        yield f"{name} {parameter.name}", getattr(parameter, "help", "") or ""
    if isinstance(command, TyperGroup):
        for part, inner in command.commands.items():
            yield from helps(inner, f"{name} {part}")


def found(text: str) -> list[str]:
    return [
        f"{hit[0]} → {better}" for word, better in INSTEAD.items() for hit in re.finditer(word, text, re.IGNORECASE)
    ]


@pytest.mark.parametrize("page", SOURCES, ids=lambda page: page.stem)
def test_pages(page: Any) -> None:
    assert not found(page.read_text(encoding="utf-8"))


def test_help() -> None:
    every = dict(helps(typer.main.get_command(app)))
    assert len(every) > 100
    assert not {name: hits for name, text in every.items() if (hits := found(text))}


def test_the_words_are_found() -> None:
    assert found("Mend the line; the rows that were passed over.") == ["Mend → fix", "passed over → skipped"]
    assert found("It is judged, too.") == [", too → also"]
    assert not found("Fix the line; amended rows are skipped. Too many, too late; if it is killed, rerun it.")
