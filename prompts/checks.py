"""Checks of a translated text that need no knowledge of its language: is it a translation, is it whole, did it keep
what must not be translated.

Every bound was chosen on public translations of 280 prompts into twelve languages; docs/prompts.md has the figures.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import langcodes

from icr.base.conversation import Conversation, is_plain
from icr.languages import detect, english_name, same_language

EMPTY = "empty"
COPY = "untranslated"
LANGUAGE = "wrong language"
LENGTH = "length"
CODE = "code changed"
NUMBERS = "numbers missing"
REASONS = (EMPTY, COPY, LANGUAGE, LENGTH, CODE, NUMBERS)
"""In the order of reporting: a prompt that fails several checks counts under the first."""

MIN_LETTERS = 0.5
"""Share of letters, outside code blocks, from which on a text is prose that has to differ from its English."""

SHORT_TURN = 20
"""Letters below which a turn of a conversation may be the English itself: "OK", a name, a number with its unit."""

DENSE_SCRIPTS = {"Hans", "Hant", "Hani", "Jpan", "Kore"}
DENSE_LENGTH = (0.15, 1.3)
LENGTH_RATIO = (0.5, 2.0)
"""Characters of a translation per character of its English, code blocks aside. On 1,300 translations of 80 characters
or more, 0.25 to 0.75 is usual in Chinese, Japanese and Korean, and 0.7 to 1.5 elsewhere. What lies outside these
bounds there had been cut, said twice, or answered instead of translated."""
LENGTH_SLACK = 30
"""Characters on top of the bounds, for short texts, where one long word is much."""

UNTOLD = """
    aa ab ae ak ay bi bm ch cr cu dz ee ff fj fo ha ho hz ig ii ik iu kg ki kj kl kr ks lg ln lu mh mi na nd ng nr nv
    ny oj om pi rn rw se sg sm sn ss st ti tn to ts tw ty ve wo xh za zu
"""
"""ISO 639-1 codes that the language identifier, lid.176, has no label for. It can only tell them from English."""

CODE_BLOCK = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
NUMBER = re.compile(r"\d+(?:[.,٫٬'’\u00a0\u202f]\d+)*")
SPACED = re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?!\d)")
WITH_SUFFIX = re.compile(rf"({NUMBER.pattern})(?:(?P<word>'?s|st|nd|rd|th)\b|[ -]?(?P<scale>[a-z]+)\b)?", re.IGNORECASE)
SCALES = {"hundred", "thousand", "million", "billion", "trillion", "k", "m", "b", "bn", "mn", "mln"}
MYRIADS = re.compile(rf"({NUMBER.pattern}) ?[百千万萬亿億兆백천만억조]")
LARGE = 6
"""From so many digits on, languages write a number with their own words (170,000,000 is 1.7亿)."""
BUDDHIST_YEARS = 543
"""Thai writes the year 1350 as 1893."""


class Finding(NamedTuple):
    """One thing that is wrong with a translation."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Checked:
    """All that is wrong with a translation, the gravest first (of a conversation, message by message); whether its
    language could be known at all."""

    findings: list[Finding]
    language_known: bool


def check_translation(original: str, text: str, lang: str, *, source: str = "en", turn: bool = False) -> Checked:
    """Compare a translation into `lang` with its original.

    Deterministic; reads nothing but its arguments.

    Args:
        source: the language of the original.
        turn: the text is one message of a conversation of several, or an answer.

    Raises:
        UserError: `lang` or `source` is not an ISO 639-1 code.
    """
    if not text.strip():
        return Checked([Finding(EMPTY, "no text")], language_known=False)
    name = english_name(source)
    known, in_other = _language(original, text, lang, source)
    checks = {
        COPY: f"the same as the {name}" if _is_copy(original, text, SHORT_TURN if turn else 0) else "",
        LANGUAGE: f"it is in {in_other!r}" if in_other else "",
        LENGTH: _length(original, text, lang, source),
        CODE: "" if _blocks(original) == _blocks(text) else f"the code blocks differ from those of the {name}",
        NUMBERS: ", ".join(_missing_numbers(original, text, lang)),
    }
    return Checked([Finding(reason, detail) for reason, detail in checks.items() if detail], known)


def join_checks(parts: Sequence[Checked], prompt: Conversation) -> Checked:
    """What was found in the messages of a prompt, as what is wrong with the prompt.

    Args:
        parts: of each message.
    """
    if is_plain(prompt):
        return parts[0]
    findings = [
        Finding(finding.reason, f"message {number} ({message['role']}): {finding.detail}")
        for number, (part, message) in enumerate(zip(parts, prompt, strict=True), 1)
        for finding in part.findings
    ]
    return Checked(findings, any(part.language_known for part in parts))


def in_english(text: str) -> bool:
    """Whether a text passes for English; a text of unknown language does."""
    return same_language(detect(text), "en")


def _language(original: str, text: str, lang: str, source: str) -> tuple[bool, str | None]:
    """(whether the language could be known, the language that it is in although it should not)."""
    found = detect(text)
    # a prompt about a long foreign passage is "in" that passage's language, in English as in translation
    if found is None or not same_language(detect(original), source):
        return False, None
    if lang in UNTOLD.split():
        return found == source, source if found == source else None
    return True, None if same_language(found, lang) else found


def _is_copy(english: str, text: str, shortest: int) -> bool:
    """The same text but for case and white space. What is mostly code or numbers may be the same in any language, and
    so may what has fewer letters than `shortest`."""
    if _folded(english) != _folded(text):
        return False
    letters = sum(map(str.isalpha, _prose(text)))
    return letters >= max(shortest, MIN_LETTERS * sum(not c.isspace() for c in text))


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _prose(text: str) -> str:
    return CODE_BLOCK.sub(" ", text)


def _blocks(text: str) -> list[list[str]]:
    """The lines of each fenced code block, without white space at their ends."""
    return [[line.rstrip() for line in block.strip("`").split("\n")] for block in CODE_BLOCK.findall(text)]


def _length(original: str, text: str, lang: str, source: str) -> str:
    before, after = len(_prose(original).strip()), len(_prose(text).strip())
    shortest, longest = _bounds(_is_dense(source), _is_dense(lang))
    if shortest * before - LENGTH_SLACK <= after <= longest * before + LENGTH_SLACK:
        return ""
    return f"{after} characters for {before} in {english_name(source)}"


def _bounds(from_dense: bool, to_dense: bool) -> tuple[float, float]:
    """Characters of a translation per character of its original: at least, at most."""
    if from_dense == to_dense:
        return LENGTH_RATIO
    return DENSE_LENGTH if to_dense else (1 / DENSE_LENGTH[1], 1 / DENSE_LENGTH[0])


def _is_dense(lang: str) -> bool:
    return _script(lang) in DENSE_SCRIPTS


@cache
def _script(lang: str) -> str | None:
    """The script that a language is mostly written in: zh → Hans."""
    return langcodes.Language.get(lang).maximize().script


def _missing_numbers(english: str, text: str, lang: str) -> list[str]:
    """Numbers of the English that the translation lacks, whatever its digits, separators and words of scale.

    Single digits, decades and ordinals are skipped: languages write them out. So are numbers that the translation adds,
    for the same reason.
    """
    plain = _plain_digits(text)
    there = {part for found in NUMBER.findall(plain) + SPACED.findall(plain) for part in _readings(found)}
    significant = {_significant(number) for number in there}
    with_myriads = {_significant(_digits(found)) for found in MYRIADS.findall(plain)}

    def kept(found: str, scaled: bool) -> bool:
        number = _digits(found)
        return (
            number in there
            or all(part in there for part in re.findall(r"\d+", found))
            or ((scaled or len(number) >= LARGE) and _significant(number) in significant)
            or _significant(number) in with_myriads
            or (lang == "th" and len(number) == 4 and str(int(number) + BUDDHIST_YEARS) in there)
        )

    missing = []
    for match in WITH_SUFFIX.finditer(_plain_digits(english)):
        found, scaled = match[1], (match["scale"] or "").lower() in SCALES
        written_out = match["word"] or len(_digits(found)) < 2 or not _digits(found).strip("0")
        if not written_out and not kept(found, scaled):
            missing.append(found)
    return missing


def _plain_digits(text: str) -> str:
    """Digits of every script as 0–9. Raised and lowered ones stand alone: 10² is 10 and 2, not 102."""
    return "".join(
        str(unicodedata.decimal(c)) if c.isdecimal() else f" {unicodedata.digit(c)} " if c.isdigit() else c
        for c in html.unescape(text)
    )


def _digits(number: str) -> str:
    return re.sub(r"\D", "", number)


def _readings(number: str) -> list[str]:
    """A number with its separators as part of it, and with them between two numbers: 1,5 is 15, or 1 and 5."""
    return [_digits(number), *re.findall(r"\d+", number)]


def _significant(number: str) -> str:
    return number.strip("0")
