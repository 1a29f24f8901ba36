"""The words of a text, in any script."""

from __future__ import annotations

import unicodedata
from itertools import pairwise

import regex

_WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+(?:['’][\p{L}\p{M}]+)*")
_UNSPACED = regex.compile(r"([\p{Han}\p{Hiragana}\p{Katakana}\u30fc\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]+)")
_SIGN = regex.compile(r"\X")


def split_words(text: str) -> list[str]:
    """Runs of letters, marks and digits, in lower case (case folding, NFC).

    Han, Kana, Thai, Lao, Khmer and Burmese have no blanks between words: a run of them becomes its pairs of
    neighbouring signs (a letter with its marks), and a single sign stays. So a "word" there is two signs wherever they
    stand side by side, also across two real words.
    """
    found = []
    for word in _WORD.findall(unicodedata.normalize("NFC", text.casefold())):
        for part in _UNSPACED.split(word):
            if not part:
                continue
            if not _UNSPACED.match(part):
                found.append(part)
                continue
            signs = _SIGN.findall(part)
            found += [a + b for a, b in pairwise(signs)] or signs
    return found
