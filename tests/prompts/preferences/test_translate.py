"""`icr rm translate`: rows as units, both ways, kept groups and splits, and what it does after a kill."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from icr.base.errors import ConfigError, UserError
from icr.base.files import read_rows
from icr.commands.main import app
from icr.endpoint.cache import Cache
from prompts.preferences.forms import Options
from prompts.preferences.make import load_data, make_data
from tests.helpers.stub_server import Answer, Stub, says
from tests.helpers.translating import language_of, text_of
from tests.helpers.translating import rows as lines

SENTENCES = {
    "prompt": {
        "en": "Name {n} animals that live in the sea.",
        "es": "Nombra {n} animales que viven en el mar.",
        "ru": "Назовите {n} животных, которые живут в море.",
    },
    "good": {
        "en": "There are {n} of them on the long list that I wrote.",
        "es": "Hay {n} de ellos en la larga lista que escribí ayer.",
        "ru": "В длинном списке, который я написал, их {n} штук.",
    },
    "bad": {
        "en": "I will not tell you about the {n} animals today.",
        "es": "No voy a hablarte hoy de los {n} animales del mar.",
        "ru": "Сегодня я не буду рассказывать вам о {n} животных.",
    },
}


def say(kind: str, lang: str, n: int) -> str:
    return SENTENCES[kind][lang].format(n=n)


def by_heart(request: dict[str, Any], before: int = 0) -> Answer:
    """Translates SENTENCES from any of their languages into any other."""
    text = text_of(request)
    for of in SENTENCES.values():
        for sentence in of.values():
            if found := re.fullmatch(re.escape(sentence).replace(r"\{n\}", r"(\d+)"), text):
                return says(of[language_of(request)].format(n=found[1]))
    raise AssertionError(text)


def pairs(folder: Path, numbers: range = range(11, 19), langs: tuple[str, ...] = ("en",)) -> Path:
    rows = [
        {"id": f"p{n}", "lang": lang, "group": f"g{n // 2}", "margin": n / 4, "prompt": say("prompt", lang, n),
         "chosen": say("good", lang, n), "rejected": say("bad", lang, n)}
        for n in numbers for lang in langs
    ]  # fmt: skip
    return write(folder, rows)


def write(folder: Path, rows: list[dict[str, Any]], validation: float = 0.25) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    source = folder.with_suffix(".jsonl")
    source.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    make_data([str(source)], folder, Options(), validation=validation)
    return folder


def arguments(data: Path, out: Path, url: str, *more: object) -> list[str]:
    to = [] if "--to" in more else ["--to", "es,ru"]
    who = [] if "--translator" in more else ["--translator", "openai:m"]
    given = [data, "--out", out, *to, *who, *(["--base-url", url] if url else []), *more]
    return ["rm", "translate", *map(str, given)]


def translate(data: Path, out: Path, url: str, *more: object) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*arguments(data, out, url, *more), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def refused(data: Path, out: Path, url: str, *more: object) -> str:
    with pytest.raises(UserError) as caught:
        CliRunner().invoke(app, arguments(data, out, url, *more), catch_exceptions=False)
    return str(caught.value)


def by_id(folder: Path, split: str = "train") -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in read_rows(folder / f"{split}.parquet")}


def test_rows_keep_their_group_and_split_and_say_where_they_come_from(tmp_path: Path) -> None:
    data, out = pairs(tmp_path / "data"), tmp_path / "out"
    with Stub(by_heart) as stub:
        report = translate(data, out, stub.url)
        assert sum(stub.asked.values()) == 8 * 3 * 2
    for split in ("train", "validation"):
        before, after = by_id(data, split), by_id(out, split)
        assert set(after) == {f"{id}:en>{lang}" for id in before for lang in ("es", "ru")}
        for id, row in before.items():
            number = int(id[1:])
            for lang in ("es", "ru"):
                texts = {"prompt": say("prompt", lang, number), "chosen": say("good", lang, number)}
                texts |= {"rejected": say("bad", lang, number)}
                assert after[f"{id}:en>{lang}"] == {**row, **texts, "id": f"{id}:en>{lang}", "lang": lang}
    made = load_data(out, "data")
    assert made.kind == "pairs" and len(made.train) == 2 * len(by_id(data))
    assert not {row["group"] for row in made.train} & {row["group"] for row in made.validation}
    assert report["languages"]["es"]["rows"] == 8 and report["languages"]["es"]["left_out"] == {}
    assert report["translation"]["from"] == "en" and report["translation"]["cost"]["calls"] == 48


def test_a_part_that_fails_drops_the_row_and_is_counted(tmp_path: Path) -> None:
    data, out = pairs(tmp_path / "data"), tmp_path / "out"

    def faulty(request: dict[str, Any], before: int) -> Answer:
        text = text_of(request)
        if text == say("bad", "en", 12):
            return says(text)
        if text == say("prompt", "en", 13):
            return says("")
        if text in (say("good", "en", 14), say("bad", "en", 14)):
            return says("Hay 14 cosas que no se pueden decir de otra manera.")
        return by_heart(request)

    with Stub(faulty) as stub:
        report = translate(data, out, stub.url, "--to", "es")
    reasons = {"rejected: untranslated": 1, "prompt: empty": 1, "same response twice": 1}
    assert report["languages"]["es"]["left_out"] == reasons and report["languages"]["es"]["rows"] == 8
    kept = {*by_id(out), *by_id(out, "validation")}
    assert kept == {f"p{n}:en>es" for n in (11, 15, 16, 17, 18)}
    dropped = {row["id"]: row for row in lines(out / "translation_dropped.jsonl")}
    assert set(dropped) == {"p12", "p13", "p14"} and dropped["p12"]["original"]["rejected"] == say("bad", "en", 12)
    assert dropped["p12"]["path"] == ["en", "es"] and len(dropped["p12"]["translation"]) == 3


def test_there_and_back_again_is_in_the_original_language(tmp_path: Path) -> None:
    data, out = pairs(tmp_path / "data", langs=("en", "es")), tmp_path / "out"

    def there(request: dict[str, Any], before: int) -> Answer:
        lost = language_of(request) == "ru" and text_of(request) == say("good", "en", 12)
        return says("") if lost else by_heart(request)

    with Stub(there) as stub:
        dry = CliRunner().invoke(app, [*arguments(data, out, stub.url, "--from", "en", "--back"), "--dry-run"])
        assert dry.stdout.startswith(f"{2 * 8 * 3 * 2} translations") and not out.exists() and not stub.asked
        report = translate(data, out, stub.url, "--from", "en", "--back")
        assert sum(stub.asked.values()) == 48 + 48 - 3  # of a row that is lost on its way, nothing goes back
        known = CliRunner().invoke(app, [*arguments(data, out, stub.url, "--from", "en", "--back"), "--dry-run"])
        assert known.stdout.startswith("0 translations to request")
    after = by_id(out) | by_id(out, "validation")
    ways = {f"p{n}:en>{lang}>en" for n in range(11, 19) for lang in ("es", "ru")}
    assert set(after) == ways - {"p12:en>ru>en"}
    for id, row in after.items():
        assert row["lang"] == "en" and row["prompt"] == say("prompt", "en", int(id[1:3]))
    assert report["languages"]["en"]["left_out"] == {"chosen: empty": 1} and report["translation"]["back"]


def test_ratings_without_prompts_and_conversations(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"id": f"r{n}{label}", "lang": "en", "prompt": "", "group": f"g{n}", "label": label,
         "response": say("good" if label else "bad", "en", n)}
        for n in range(11, 15) for label in (0, 1)
    ]  # fmt: skip
    with Stub(by_heart) as stub:
        translate(write(tmp_path / "ratings", rows), tmp_path / "out", stub.url, "--to", "es")
        assert sum(stub.asked.values()) == 8
        made = by_id(tmp_path / "out") | by_id(tmp_path / "out", "validation")
        assert made["r110:en>es"]["response"] == say("bad", "es", 11) and made["r110:en>es"]["label"] == 0
        assert {row["prompt"] for row in made.values()} == {""}
        turns = [("user", "prompt", 21), ("assistant", "good", 21), ("user", "prompt", 22)]
        told = [{"role": role, "content": say(kind, "en", n)} for role, kind, n in turns]
        row = {
            "id": "c",
            "lang": "en",
            "prompt": told,
            "chosen": say("good", "en", 22),
            "rejected": say("bad", "en", 22),
        }
        other = {**row, "id": "d", "prompt": say("prompt", "en", 31)}
        translate(write(tmp_path / "talk", [row, other], 1), tmp_path / "spoken", stub.url, "--to", "es")
    spoken = by_id(tmp_path / "spoken") | by_id(tmp_path / "spoken", "validation")
    assert json.loads(spoken["c:en>es"]["prompt"])[1] == {"role": "assistant", "content": say("good", "es", 21)}


def test_killed_it_goes_on_and_pays_nothing_twice(tmp_path: Path) -> None:
    data, out, undisturbed = pairs(tmp_path / "data", range(11, 31)), tmp_path / "out", tmp_path / "undisturbed"

    def slowly(request: dict[str, Any], before: int) -> Answer:
        return Answer(by_heart(request).body, delay=0.02)

    def wait_for(true: Callable[[], bool], process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + 120
        while not true():
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.005)

    with Stub(slowly) as stub:
        more = ("--to", "es", "--back", "--concurrency", 3)
        command = [sys.executable, "-m", "icr.commands.main", *arguments(data, out, stub.url, *more)]
        kept = 0
        for answers in (20, 80):  # on the way there, and on the way back
            running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            wait_for(lambda enough=answers: stub.answered >= enough, running)
            running.send_signal(signal.SIGKILL)
            running.communicate()
            assert not (out / "report.json").exists()
            before = -1
            while before != (before := sum(stub.asked.values())) or stub.busy:
                time.sleep(0.3)  # a worker outlives its parent by a moment
            kept, last = len(Cache(out / "translator" / "answers.sqlite")), kept
            assert last < kept < 120
        asked = sum(stub.asked.values())
        translate(data, out, stub.url, *more)
        assert asked - kept <= 2 * (3 + 3) and len(stub.asked) == 120
        assert sum(stub.asked.values()) == asked + 120 - kept
        asked = sum(stub.asked.values())
        translate(data, out, stub.url, *more)
        assert sum(stub.asked.values()) == asked
        translate(data, undisturbed, stub.url, *more)
    for name in ("train.parquet", "validation.parquet", "translation_dropped.jsonl", "report.json"):
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes()


def test_everything_wrong_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    data, out = pairs(tmp_path / "data", langs=("en", "es")), tmp_path / "out"
    text = refused(tmp_path, out, "", "--translator", "local:no/such/model", "--to", "xx")
    assert (
        "not a folder of preference data" in text and "no/such/model not found" in text and "'xx' is not an ISO" in text
    )
    text = refused(data, out, "https://example.org/v1", "--to", "en", "--from", "en")
    assert "the key for the endpoint is missing" in text and "the rows are already in English" in text
    text = refused(data, out, "", "--translator", "gpt", "--backend", "jax", "--to", "ru")
    assert "'gpt' is not a translator" in text and "unknown backend jax" in text and "the data has 2 languages" in text
    assert "no rows in de" in refused(data, out, "http://127.0.0.1:9/v1", "--from", "de")
    assert "no language to translate into" in refused(data, out, "http://127.0.0.1:9/v1", "--to", ",")
    assert not out.exists()
    out.mkdir()
    (out / "train.parquet").write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"not written by this command: train\.parquet"):
        translate(data, out, "http://127.0.0.1:9/v1", "--from", "en", "--to", "ru")
    assert (out / "train.parquet").read_bytes() == b"mine"


def test_languages_are_added_and_nothing_is_lost(tmp_path: Path) -> None:
    data, out = pairs(tmp_path / "data"), tmp_path / "out"
    with Stub(by_heart) as stub:
        translate(data, out, stub.url, "--to", "es")
        assert "would be lost: es" in refused(data, out, stub.url, "--to", "ru")
        assert "--back: False → True" in refused(data, out, stub.url, "--to", "es", "--back")
        assert "--limit: None → 2" in refused(data, out, stub.url, "--to", "es", "--limit", 2)
        assert set(stub.asked.values()) == {1} and len(stub.asked) == 24
        translate(data, out, stub.url, "--to", "es,ru")
        assert len(stub.asked) == 48 and len(by_id(out)) == 2 * len(by_id(data))
        shown = CliRunner().invoke(app, arguments(data, out, stub.url))
        assert "48 answers of openai: m" in shown.stdout and f"pairs: {out}" in shown.stdout
        pairs(tmp_path / "data2", range(11, 17)).rename(tmp_path / "other")
        assert "training data" in refused(tmp_path / "other", out, stub.url)
