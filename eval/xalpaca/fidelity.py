"""Language fidelity as the Language Confusion Benchmark measures it (Marchisio et al. 2024, arXiv 2406.20052).

With R the answers that have a line of at least five words, E_L those with a line in another or no known language, and
E_W those of the others with an English word:

    line pass rate = |R \\ E_L| / |R|            word pass rate = |(R \\ E_L) \\ E_W| / |R \\ E_L|

A line's language is fastText's, unknown at a probability of 0.3 or less; punctuation is removed before. Words count
where the language is not written in Latin letters: for others the paper calls its list of English words unreliable.

An English word has four or more letters, all of them small, and is in pyspellchecker's English dictionary (MIT), which
holds all but 16 of the paper's 81,995 words and as many others, most of them names.

Two things differ from the paper's. Fenced code is left out, as it is in no human language. A language that is written
without blanks is not cut into words: its line has five words if it has as many letters as five words have on average.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import langcodes
from spellchecker import SpellChecker

from icr.languages import drop_code, identify, same_language

FEWEST_WORDS = 5
LEAST_PROBABILITY = 0.3
LETTERS_A_WORD = {"zh": 2, "ja": 2, "th": 4, "lo": 4, "km": 4, "my": 4}
"""Of languages that are written without blanks between words."""
PUNCTUATION = str.maketrans({**dict.fromkeys(string.punctuation, ""), "—": " ", "،": ""})
LATIN = re.compile(r"[A-Za-z]+")


@dataclass(frozen=True)
class Fidelity:
    """Of some answers in one language."""

    n: int
    """Answers that have a line of five words: |R|."""
    line_pass: float | None
    """0 to 1; None without such an answer."""
    word_pass: float | None
    """0 to 1; None for languages in Latin letters, and where no answer passes by its lines."""


def measure_fidelity(texts: Iterable[str], lang: str) -> Fidelity:
    """The pass rates of answers that should be in a language (an ISO 639-1 code)."""
    found = [lines for text in texts if (lines := long_lines(text, lang))]
    in_language = [lines for lines in found if all(is_in(line, lang) for line in lines)]
    clean = sum(not any(has_english_word(line, lang) for line in lines) for lines in in_language)
    words = not is_latin(lang) and len(in_language) > 0
    return Fidelity(
        len(found),
        len(in_language) / len(found) if found else None,
        clean / len(in_language) if words else None,
    )


def long_lines(text: str, lang: str) -> list[str]:
    """The lines with at least five words, without punctuation."""
    lines = drop_code(text).strip().translate(PUNCTUATION).split("\n")
    return [line for line in lines if count_words(line, lang) >= FEWEST_WORDS]


def count_words(line: str, lang: str) -> int:
    letters = LETTERS_A_WORD.get(lang)
    return sum(map(str.isalpha, line)) // letters if letters else len(line.split())


@cache
def is_in(line: str, lang: str) -> bool:
    """Whether a line is in the language, and surely so."""
    code, probability = identify(line)
    return probability > LEAST_PROBABILITY and same_language(code, lang)


def has_english_word(line: str, lang: str) -> bool:
    """Whether a word of four or more letters, all of them small, is an English one. Names have a capital letter."""
    words = LATIN.findall(line) if lang in LETTERS_A_WORD else [w for w in line.split() if LATIN.fullmatch(w)]
    return any(len(word) > 3 and word.islower() and word in _english() for word in words)


@cache
def _english() -> SpellChecker:
    return SpellChecker("en")


@cache
def is_latin(lang: str) -> bool:
    """Whether a language is written in Latin letters."""
    return langcodes.Language.get(lang).maximize().script == "Latn"
