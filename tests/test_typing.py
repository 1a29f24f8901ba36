"""Types say something: `Any` is rare, and what is passed on unread is an `object`."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("icr", "eval", "loops", "prompts")
MOST = 8.0
"""Occurrences of `Any` per thousand lines, imports included."""
MOST_IGNORES = 1.2
"""Errors of mypy that are silenced, per thousand lines."""

TEXTS = {str(f.relative_to(ROOT)): f.read_text(encoding="utf-8") for p in PACKAGES for f in (ROOT / p).rglob("*.py")}
LINES = sum(text.count("\n") for text in TEXTS.values())


def per_thousand_lines(pattern: str) -> tuple[float, list[str]]:
    """How often a pattern occurs, and the files that have most of it."""
    found = {file: len(re.findall(pattern, text)) for file, text in TEXTS.items()}
    worst = sorted(filter(found.get, found), key=lambda file: -found[file])
    return 1000 * sum(found.values()) / LINES, [f"{file}: {found[file]}" for file in worst[:5]]


def test_any_is_rare() -> None:
    rate, worst = per_thousand_lines(r"\bAny\b")
    assert rate <= MOST, f"{rate:.1f} per thousand lines; most of them in {', '.join(worst)}"


def test_few_errors_of_mypy_are_silenced() -> None:
    rate, worst = per_thousand_lines(r"# type: ignore")
    assert rate <= MOST_IGNORES, f"{rate:.1f} per thousand lines; most of them in {', '.join(worst)}"


def test_what_is_silenced_is_named() -> None:
    bare = [file for file, text in TEXTS.items() if re.search(r"# type: ignore(?!\[)", text)]
    assert not bare, f"write the error's code in brackets: {', '.join(bare)}"
