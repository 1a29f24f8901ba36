"""Words of texts in any script."""

from __future__ import annotations

import pytest

from icr.base.words import split_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't stop, GROSSE Straße 12!", ["don't", "stop", "grosse", "strasse", "12"]),
        ("l’été — caf\u0065\u0301", ["l’été", "café"]),
        ("यह नमस्ते है", ["यह", "नमस्ते", "है"]),  # vowel signs are marks, which \w leaves out
        ("ที่ดีมาก", ["ที่ดี", "ดีม", "มา", "าก"]),
        ("我爱你 x 我", ["我爱", "爱你", "x", "我"]),
        ("コーヒーgood", ["コー", "ーヒ", "ヒー", "good"]),
        ("한국어 단어", ["한국어", "단어"]),
        ("…!?", []),
    ],
)  # fmt: skip
def test_words_of_every_script(text: str, words: list[str]) -> None:
    assert split_words(text) == words
