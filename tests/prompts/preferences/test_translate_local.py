"""`icr rm translate` by a model on this machine: what is sampled, in which order, and what a kill loses."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from icr.base.progress import SILENT, Reporter, Silent
from icr.config.schema import Endpoint as Settings
from icr.endpoint.cache import Cache
from icr.engines.base import Completion, Decoding, Request
from prompts.preferences.translate import DataJob, run
from prompts.translator import SHARD
from tests.helpers.tiny_models import make_tiny_model
from tests.helpers.translating import language_of
from tests.helpers.translating import rows as lines
from tests.prompts.preferences.test_translate import by_heart, by_id, pairs, say, write

Answers = Callable[[dict[str, Any]], str]


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


class Engine:
    """Says what a script has for a question. Counts what it is asked, and how many of it there are at a time."""

    name = "transformers"
    script: Answers
    asked: list[str]
    open = 0
    kill_at = -1
    """Which call does not end."""

    def __init__(self, model: str, settings: object) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(model)
        assert Engine.open == 0, "two engines at a time"
        Engine.open += 1

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, reporter: Reporter = SILENT
    ) -> list[Completion]:
        found = []
        for number, request in enumerate(requests, 1):
            question = self._tokenizer.decode(request.prompt_ids)
            Engine.asked.append(question)
            answer = Engine.script({"messages": [{"content": question}]})
            ids = self._tokenizer(answer, add_special_tokens=False)["input_ids"]
            found.append(Completion([*ids, self._tokenizer.eos_token_id], "stop"))
            reporter.progress(number, len(requests), sum(len(c.token_ids) for c in found))
        Engine.kill_at -= 1
        if Engine.kill_at == 0:
            raise Killed
        return found

    def close(self) -> None:
        Engine.open -= 1


def heart(request: dict[str, Any]) -> str:
    return str(json.loads(by_heart(request).body)["choices"][0]["message"]["content"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), context=4096)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> type[Engine]:
    monkeypatch.setattr("icr.engines.open.open_engine", Engine)
    monkeypatch.setitem(SHARD, "transformers", 8)
    Engine.script, Engine.asked, Engine.kill_at, Engine.open = staticmethod(heart), [], -1, 0
    return Engine


class Watching(Silent):
    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def progress(self, done: int, total: int, tokens: int = 0) -> None:
        self.seen.append((done, total))


def translate(model: Path, data: Path, out: Path, reporter: Reporter = SILENT, **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"targets": ["es"], "back": False, "source": None, "limit": None} | changes
    settings, who = Settings(), {"kind": "local", "model": str(model), "backend": "transformers"}
    run(DataJob(folder=str(data), out=str(out), settings=settings, **who, **given), reporter)
    found: dict[str, Any] = json.loads((out / "report.json").read_text())
    return found


def test_killed_on_either_way_it_loses_a_shard(tmp_path: Path, model: Path, engine: type[Engine]) -> None:
    data, watching = pairs(tmp_path / "data"), Watching()
    translate(model, data, tmp_path / "calm", watching, back=True)
    calm = sorted(engine.asked)
    assert len(calm) == len(set(calm)) == 24 + 24 and engine.open == 0
    assert (3, 24) in watching.seen  # within the first shard of eight
    out, engine.asked = tmp_path / "out", []
    for kill, kept in ((2, 8), (4, 24 + 8)):  # the second shard there, and of what is left, the second back
        engine.kill_at = kill
        with pytest.raises(Killed):
            translate(model, data, out, back=True)
        assert len(Cache(out / "translator" / "answers.sqlite")) == kept and not (out / "report.json").exists()
        engine.open = 0  # a process that is killed leaves none
    translate(model, data, out, back=True)
    assert len(engine.asked) == 48 + 2 * 8 and set(engine.asked) == set(calm)
    for name in ("train.parquet", "validation.parquet", "translation_dropped.jsonl", "report.json"):
        assert (out / name).read_bytes() == (tmp_path / "calm" / name).read_bytes()
    assert by_id(out)["p11:en>es>en"]["prompt"] == say("prompt", "en", 11)
    before = len(engine.asked)
    translate(model, data, out, back=True, targets=["es", "ru"])
    assert len(engine.asked) == before + 48  # nothing into Spanish or back from it
    assert {language_of({"messages": [{"content": text}]}) for text in engine.asked[before : before + 24]} == {"ru"}


def test_rows_that_are_too_long_or_in_another_language_are_counted(
    tmp_path: Path, model: Path, engine: type[Engine]
) -> None:
    rows = [
        {"id": f"p{n}", "lang": "en", "group": f"g{n}", "prompt": say("prompt", "en", n),
         "chosen": say("good", "en", n), "rejected": say("bad", "en", n)}
        for n in range(11, 15)
    ]  # fmt: skip
    rows[0]["chosen"] = "Word by word. " * 400
    data = write(tmp_path / "data", rows)

    def script(request: dict[str, Any]) -> str:
        right = heart(request)
        return say("bad", "ru", 12) if right == say("bad", "es", 12) else right

    engine.script = staticmethod(script)
    report = translate(model, data, tmp_path / "out")
    reasons = {"chosen: no answer": 1, "rejected: wrong language": 1}
    assert report["languages"]["es"]["left_out"] == reasons and report["languages"]["es"]["rows"] == 4
    dropped = {row["id"]: row for row in lines(tmp_path / "out" / "translation_dropped.jsonl")}
    assert "longer than the translator's context" in dropped["p11"]["detail"]
    assert dropped["p12"]["detail"] == "it is in 'ru'"
    assert len(engine.asked) == 12 - 1
    translate(model, data, tmp_path / "out")
    assert len(engine.asked) == 12 - 1  # the model reads no more the second time


def test_a_folder_without_rows_says_nothing_of_their_prompts(tmp_path: Path, model: Path, engine: type[Engine]) -> None:
    engine.script = staticmethod(lambda request: "")
    report = translate(model, pairs(tmp_path / "data"), tmp_path / "out")
    assert report["languages"]["es"]["left_out"] == {"prompt: empty": 8} and report["notes"] == []
