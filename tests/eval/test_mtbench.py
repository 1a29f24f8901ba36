"""MT-Bench's questions and references, as they are published."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from eval.mtbench.questions import Reference, load_questions, question_key, read_questions, read_reference
from icr.base.errors import ConfigError, UserError
from icr.config.schema import MtBench
from tests.helpers.judging import Steps
from tests.helpers.mtbench import (
    LANGUAGES,
    SHARED,
    line,
    write_lines,
    write_questions,
)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared MT-Bench files are not here")
def test_the_published_files_of_five_languages_are_read_as_they_are() -> None:
    notes = Steps()
    questions = load_questions(MtBench(questions=str(SHARED), references="judge"), LANGUAGES, notes)
    for lang in LANGUAGES:
        assert [q.key for q in questions[lang]] == [str(n) for n in range(81, 161)]
        assert set(Counter(q.category for q in questions[lang]).values()) == {10}
        assert all(q.reference.empty for q in questions[lang] if not q.referenced)
    empty = {(lang, q.id) for lang in LANGUAGES for q in questions[lang] if q.referenced and q.reference.empty}
    assert empty == {(lang, 123) for lang in ("en", "es", "de", "fr")}
    by_id = {lang: {q.id: q.reference for q in questions[lang]} for lang in LANGUAGES}
    assert by_id["en"][103].turns == ("Thomas may work at a hospital.", "") and by_id["en"][103].missing == (1,)
    assert by_id["ru"][112].turns == ("12000", "2000"), "numbers are texts, too"
    assert by_id["de"][111].turns == ("Fläche beträgt 3", "5pi"), "a list written as a string is a list"
    assert by_id["de"][116].whole and "x-y = 0" in by_id["de"][116].turns[0], "broken quotes are not guessed apart"
    whole = {lang: sum(reference.whole for reference in by_id[lang].values()) for lang in LANGUAGES}
    assert whole == {"en": 0, "es": 5, "ru": 0, "de": 6, "fr": 13}
    assert [note[:2] for note in notes.notes] == ["es", "de", "fr"], "the user is shown them"
    with pytest.raises(UserError, match=r"4 of 150 .*: en 123, es 123, de 123, fr 123") as error:
        load_questions(MtBench(questions=str(SHARED)), LANGUAGES)
    assert "references to judge" in error.value.do
    assert len(load_questions(MtBench(questions=str(SHARED), limit=2), ["en"])["en"]) == 16


@pytest.mark.parametrize(
    ("value", "turns", "whole"),
    [
        (None, ("", ""), False),
        ("", ("", ""), False),
        ([], ("", ""), False),
        ("[]", ("", ""), False),
        (["", ""], ("", ""), False),
        (["12", "6"], ("12", "6"), False),
        (["12", ""], ("12", ""), False),
        (["", "6"], ("", "6"), False),
        (["12", None], ("12", ""), False),
        (["12"], ("12", ""), False),
        ([12, 0.5], ("12", "0.5"), False),
        ("['12', '6']", ("12", "6"), False),
        ("['it\\'s 12', \"6\"]", ("it's 12", "6"), False),
        ("['c'est 12', '6']", ("['c'est 12', '6']", ""), True),
        ("['12\n', '6']", ("['12\n', '6']", ""), True),
        ("['12', '6']\n\nmeans\n\n['12', '6']", ("['12', '6']\n\nmeans\n\n['12', '6']", ""), True),
        ("twelve", ("twelve", ""), True),
    ],
)
def test_every_odd_reference_is_read(value: Any, turns: tuple[str, str], whole: bool) -> None:
    reference = read_reference(value, "questions")
    assert isinstance(reference, Reference)
    assert (reference.turns, reference.whole) == (turns, whole)
    assert reference.sources == tuple("questions" if text else "" for text in turns)
    assert reference.missing == (() if whole else tuple(n for n in (0, 1) if not turns[n]))


@pytest.mark.parametrize("value", [["1", "2", "3"], {"a": 1}, 7, [["1"], "2"], "['1', '2', '3']"])
def test_what_is_no_reference_is_an_error(value: Any) -> None:
    assert isinstance(read_reference(value, "questions"), str)


def test_ids_join_translations() -> None:
    ids = (81, 81.0, "81", "81.0", "81_DE", "81-fr", "x_DE")
    assert [question_key(id) for id in ids] == ["81"] * 6 + ["x_DE"]


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ([line(81), line("81_DE")], "appear twice: 81"),
        ([line(turns=["one"])], "does not have two turns"),
        ([line(turns=["one", " "])], "does not have two turns"),
        ([line() | {"turns": "one two"}], "does not have two turns"),
        ([line(category="poetry")], "unknown category 'poetry'"),
        ([line(category=["math"])], "unknown category ['math']"),
        ([line(True)], "the id True is not a number or a text"),
        ([line(None)], "question_id is missing"),
        ([line(reference=["1", "2", "3"])], "its reference is not a list of two"),
        ([line(lang="French")], "has the language French"),
        (["text"], "not a JSON object"),
        ([], "no questions"),
    ],
)
def test_bad_questions_are_refused_with_their_place(tmp_path: Path, lines: list[Any], what: str) -> None:
    write_lines(tmp_path / "de.jsonl", [line(80, lang="German"), *lines] if lines else [])
    with pytest.raises(ConfigError) as error:
        read_questions(tmp_path, ["de"])
    assert what in str(error.value) and "de.jsonl" in str(error.value)
    with pytest.raises(ConfigError, match="found") as error:
        read_questions(tmp_path, ["de", "fr"])
    assert "fr.jsonl not found" in str(error.value), "all problems at once"


def test_a_folder_of_references_goes_before_the_questions_own(tmp_path: Path) -> None:
    folder = write_questions(tmp_path / "questions", reference=["wrong", "wrong"])
    given = {"question_id": "111_EN", "choices": [{"index": 0, "turns": ["12", "6"]}]}
    references = write_lines(tmp_path / "references" / "en.jsonl", [given])
    settings = MtBench(questions=str(folder), references=str(references))
    questions = load_questions(settings, ["en", "es"])
    assert [questions[lang][1].reference.turns for lang in ("en", "es")] == [("12", "6"), ("wrong", "wrong")]
    assert questions["en"][1].reference.sources == ("file", "file")
    write_lines(references / "en.jsonl", [{"question_id": 111, "choices": []}])
    with pytest.raises(ConfigError) as error:
        load_questions(settings, ["en"])
    assert "not an answer with two turns" in str(error.value) and "en.jsonl:1" in str(error.value)
    with pytest.raises(UserError, match=r"folder .* not found"):
        load_questions(MtBench(questions=str(folder), references=str(tmp_path / "none")), ["en"])
