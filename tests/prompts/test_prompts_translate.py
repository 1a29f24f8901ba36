"""`icr prompts translate` with an endpoint and with a local model: what it asks, writes, and does after a kill."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from icr.base.conversation import wrap_text
from icr.base.progress import Silent
from icr.endpoint.cache import Cache
from prompts.load import load_prompts
from prompts.translate import Task
from prompts.translator import LocalTranslator, NoAnswer
from tests.conftest import TEXTS, write_prompts
from tests.helpers.command import ICR, icr
from tests.helpers.stub_server import Answer, Stub, fault, says
from tests.helpers.translating import arguments, language_of, report, rows, text_of, translate
from tests.prompts.test_prompts import put, row

COMMAND = [*ICR, "prompts", "translate"]


def by_heart(request: dict[str, Any], before: int) -> Answer:
    """Translates the prompts of `write_prompts`."""
    number = re.search(r"\d+", text_of(request))
    assert number
    return says(TEXTS[language_of(request)].format(n=number[0]))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Six English prompts, p10 to p15."""
    return write_prompts(tmp_path / "source", range(10, 16)) / "en.jsonl"


def test_the_folder_is_one_that_icr_takes(tmp_path: Path, source: Path, tiny_config: Callable[..., Path]) -> None:
    out = tmp_path / "out"
    with Stub(by_heart) as stub:
        done = translate(source, out, stub.url)
    assert done.returncode == 0, done.stderr
    found = load_prompts(str(out), ["en", "es", "ru"])
    assert [(p.id, p.lang, p.text) for p in found] == [
        (f"p{n}", lang, TEXTS[lang].format(n=n)) for n in range(10, 16) for lang in ("en", "es", "ru")
    ]
    config = tiny_config(tmp_path / "config", prompts={"path": str(out)}, judge={"kind": "none"})
    assert "18 prompts in en, es, ru" in icr("validate", config).stdout


def test_a_language_without_prompts_is_said(tmp_path: Path, source: Path) -> None:
    with Stub(lambda request, before: says(text_of(request))) as stub:
        done = translate(source, tmp_path / "out", stub.url, "--to", "es")
    assert done.returncode == 0 and "no prompt is left in es" in done.stdout


def test_killed_it_goes_on_and_asks_nothing_twice(tmp_path: Path, source: Path) -> None:
    write_prompts(source.parent, range(10, 50))

    def slowly(request: dict[str, Any], before: int) -> Answer:
        answer = by_heart(request, before)
        return Answer(answer.body, delay=0.03)

    out = tmp_path / "out"
    cache = out / "translator" / "answers.sqlite"
    with Stub(slowly) as stub:
        command = [*COMMAND, *arguments(source, out, stub.url, "--concurrency", 3)]
        kept = 0
        for answers, sent in [(15, signal.SIGKILL), (40, signal.SIGTERM)]:
            running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            wait_for(lambda enough=answers: stub.answered >= enough, running)
            running.send_signal(sent)
            messages = running.communicate()[1]
            assert running.returncode == (-9 if sent == signal.SIGKILL else 130), messages
            assert "Traceback" not in messages and not (out / "es.jsonl").exists()
            wait_until_quiet(stub)
            kept, before = len(Cache(cache)), kept
            assert before < kept < 80
        assert "icr prompts translate" in messages
        asked = sum(stub.asked.values())
        icr(*command[len(ICR) :])
        # a kill loses what is on its way and what has just come; whatever was on disk is not asked for again
        assert asked - kept <= 2 * (3 + 3)
        assert len(stub.asked) == 80 and sum(stub.asked.values()) == asked + 80 - kept
        written = {file.name: file.read_bytes() for file in out.iterdir() if file.is_file()}
        asked = sum(stub.asked.values())
        icr(*command[len(ICR) :])
        assert sum(stub.asked.values()) == asked
        again = {file.name: file.read_bytes() for file in out.iterdir() if file.is_file()}
        names = ["en.jsonl", "es.jsonl", "ru.jsonl", "translation_dropped.jsonl"]
        assert [written[name] for name in names] == [again[name] for name in names]
    assert len(load_prompts(str(out), ["en", "es", "ru"])) == 120


def wait_until_quiet(stub: Stub) -> None:
    """Until nothing has been asked for a while: a worker outlives its parent by a moment."""
    before = -1
    while before != (before := sum(stub.asked.values())) or stub.busy:
        time.sleep(0.3)


def wait_for(true: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.005)


def test_what_had_no_answer_is_asked_again(tmp_path: Path, source: Path) -> None:
    def forgetful(request: dict[str, Any], before: int) -> Answer:
        return fault(400, "not now") if before == 0 and "12" in text_of(request) else by_heart(request, before)

    with Stub(forgetful) as stub:
        assert translate(source, tmp_path / "out", stub.url).returncode == 0
        assert report(tmp_path / "out")["languages"]["es"]["reasons"] == {"no answer": 1}
        assert translate(source, tmp_path / "out", stub.url).returncode == 0
        assert sum(stub.asked.values()) == 12 + 2
    assert report(tmp_path / "out")["languages"]["es"]["kept"] == 6
    assert rows(tmp_path / "out" / "translation_dropped.jsonl") == []


def test_more_prompts_and_more_languages_add_to_the_folder(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out"
    with Stub(by_heart) as stub:
        assert translate(source, out, stub.url, "--to", "es", "--limit", 4).returncode == 0
        assert sum(stub.asked.values()) == 4
        assert translate(source, out, stub.url, "--to", "es").returncode == 0
        assert sum(stub.asked.values()) == 6
        spanish = (out / "es.jsonl").read_bytes()
        assert translate(source, out, stub.url, "--to", "ru").returncode == 0
        assert sum(stub.asked.values()) == 12 and (out / "es.jsonl").read_bytes() == spanish
        assert list(report(out)["languages"]) == ["es", "ru"]
        # with fewer English prompts the Russian ones would lose their partners
        less = translate(source, out, stub.url, "--to", "es", "--limit", 3)
        assert less.returncode == 2 and "translations of other English prompts: ru" in less.stderr
        both = translate(source, out, stub.url, "--to", "es,ru", "--limit", 3)
        assert both.returncode == 0, both.stderr
    assert len(load_prompts(str(out), ["en", "es", "ru"])) == 9


def test_files_of_the_user_are_not_overwritten(tmp_path: Path, source: Path) -> None:
    folder = source.parent
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    spanish = translate(source, folder)
    assert spanish.returncode == 2 and "es.jsonl already exists" in spanish.stderr
    fewer = translate(source, folder, "", "--to", "th", "--limit", 2)
    assert fewer.returncode == 2 and "the folder already has other English prompts" in fewer.stderr
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    with Stub(lambda request, before: says("โปรดบอกชื่อสัตว์ที่อาศัยอยู่ในทะเล " + text_of(request)[5:7])) as stub:
        added = translate(folder, folder, stub.url, "--to", "th")
    assert added.returncode == 0, added.stderr
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert len(load_prompts(str(folder), ["en", "es", "ru", "th"])) == 24
    # the English prompts are still the user's, whatever has been added to them
    fewer = translate(folder, folder, "", "--to", "th", "--limit", 2)
    assert fewer.returncode == 2 and "the folder already has other English prompts" in fewer.stderr
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_english_prompts_without_ids_cannot_be_added_to(tmp_path: Path) -> None:
    (tmp_path / "en.jsonl").write_text('{"instruction": "Name a fish."}\n{"instruction": "Name a bird."}\n')
    refused = translate(tmp_path, tmp_path, "", "--to", "es")
    assert refused.returncode == 2 and "need `id` and `instruction` to be joined with translations" in refused.stderr


def test_a_dry_run_asks_and_writes_nothing(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out"
    with Stub(by_heart) as stub:
        dry = translate(source, out, stub.url, "--dry-run")
        assert dry.returncode == 0 and dry.stdout.startswith("12 translations to request"), dry.stderr
        assert not stub.asked and not out.exists()
        assert translate(source, out, stub.url).returncode == 0
        # what is in the cache is not counted
        assert translate(source, out, stub.url, "--to", "es,ru,th", "--dry-run").stdout.startswith("6 translations")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--to", "es,xx"], "'xx' is not an ISO 639-1 language code"),
        (["--to", "en"], "already in English"),
        (["--to", ","], "no language to translate into"),
        (["--from", "es"], "translated from English, not from 'es'"),
        (["--translator", "gpt"], "'gpt' is not a translator"),
        (["--translator", "local:no/such/model"], "model folder no/such/model not found"),
        (["--translator", "local:a/b", "--backend", "jax"], "unknown backend jax"),
    ],
)
def test_wrong_arguments_end_with_2(tmp_path: Path, source: Path, given: list[str], message: str) -> None:
    done = translate(source, tmp_path / "out", "http://127.0.0.1:9/v1", *given)
    assert done.returncode == 2 and message in done.stderr


def test_an_endpoint_that_refuses(tmp_path: Path, source: Path) -> None:
    with Stub(lambda request, before: fault(401, "bad key")) as stub:
        done = icr("prompts", "translate", *arguments(source, tmp_path / "out", stub.url), code=2)
    assert "bad key" in done.stderr
    assert "--base-url: http" in done.stderr and "judge" not in done.stderr
    assert not (tmp_path / "out" / "en.jsonl").exists()


def test_every_option_of_an_endpoint_is_the_translators_too(tmp_path: Path, source: Path) -> None:
    given = ["--reasoning-effort", "low", "--extra-body", "{top_k: 1}", "--system", "Translate.", "--timeout", "30",
             "--requests-per-minute", "6000", "--tokens-per-minute", "1e9", "--attempts", "2"]  # fmt: skip
    with Stub(lambda request, before: says("Nombra animales que viven en el mar azul.")) as stub:
        assert translate(source, tmp_path / "out", stub.url, "--to", "es", *given).returncode == 0
        request = stub.sent[0][1]
    assert (request["reasoning_effort"], request["top_k"]) == ("low", 1)
    assert request["messages"][0] == {"role": "system", "content": "Translate."}
    for wrong in (["--attempts", "0"], ["--extra-body", "[1]"], ["--timeout", "0"]):
        done = translate(source, tmp_path / "other", stub.url, "--to", "es", *wrong)
        assert done.returncode == 2 and wrong[0].removeprefix("--").replace("-", "_") in done.stderr


def test_a_budget_stops_it_and_a_larger_one_goes_on(tmp_path: Path, source: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("m: {input: 1000, output: 1000}")  # an answer of the stub has 8 tokens: 0.8 cents
    out, options = tmp_path / "out", ["--prices", prices, "--concurrency", 1]
    with Stub(by_heart) as stub:
        dry = translate(source, out, stub.url, *options, "--dry-run")
        assert "at most $" in dry.stdout
        first = float(dry.stdout.partition("$")[2]) / 12
        stopped = translate(source, out, stub.url, *options, "--budget", first + 0.02)
        assert stopped.returncode == 2 and "budget is used up" in stopped.stderr and "raise --budget" in stopped.stderr
        assert 0 < len(stub.asked) < 12 and not (out / "es.jsonl").exists()
        finished = translate(source, out, stub.url, *options, "--budget", 10)
        assert finished.returncode == 0 and "12 answers of openai: m" in finished.stdout
        assert len(stub.asked) == sum(stub.asked.values()) == 12
    assert report(out)["cost"] == {
        "calls": 12,
        "prompt_tokens": 84,
        "completion_tokens": 12,
        "usd": pytest.approx(0.096),
    }


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield


def test_a_local_model_translates_greedily(
    tmp_path: Path, tiny_pair: tuple[Path, Path], source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from icr.engines.templates import prompt_token_ids

    monkeypatch.setattr("icr.engines.precision.has_bf16", lambda: False)  # what it is compared with is fp32
    put(source.parent, "en", *(row(id, text) for id, text in enumerate(["A short one.", "x " * 1500, "Another."])))
    task = Task(str(source), ["es"], tmp_path / "out")
    translator = LocalTranslator(str(tiny_pair[0]), task.work / "answers.sqlite", "transformers", Silent())
    assert translator.estimate(task.asks).calls == 3
    answers = translator.ask(task.asks, lambda more: None)
    model = AutoModelForCausalLM.from_pretrained(tiny_pair[0]).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_pair[0])
    for number in (0, 2):
        ask = task.asks[number]
        ids = torch.tensor([prompt_token_ids(tokenizer, wrap_text(ask.messages[0][1]))])
        out = model.generate(ids, do_sample=False, max_new_tokens=ask.max_tokens)[0, ids.shape[1] :]
        expected = tokenizer.decode(out, skip_special_tokens=True)
        answer = answers[number]
        assert not isinstance(answer, NoAnswer)
        assert answer.choices[0].message.content == expected and len(expected) > 20
    assert isinstance(answers[1], NoAnswer) and "context 2048" in answers[1].detail
    report = task.write(answers, "local: tiny", None)
    assert report.tallies["es"].prompts == 3 and report.tallies["es"].reasons["no answer"] == 1
    # all of it is in the cache: no model is loaded
    monkeypatch.setattr("icr.engines.open.open_engine", None)
    assert translator.ask(task.asks, lambda more: None) == answers
    assert translator.estimate(task.asks).calls == 0


@pytest.mark.usefixtures("one_thread")
def test_a_killed_local_translation_loses_a_shard_at_most(
    tmp_path: Path, tiny_pair: tuple[Path, Path], source: Path
) -> None:
    write_prompts(source.parent, range(100, 140))
    out = tmp_path / "out"
    options = ["--to", "es", "--translator", f"local:{tiny_pair[0]}", "--backend", "transformers"]
    command = [*COMMAND, *arguments(source, out, "", *options)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    cache = out / "translator" / "answers.sqlite"
    wait_for(lambda: cache.is_file() and len(Cache(cache)) >= 32, running)
    os.kill(running.pid, signal.SIGKILL)
    running.communicate()
    icr(*command[len(ICR) :])
    sampled = [event["total"] for event in rows(out / "translator" / "events.jsonl") if event["event"] == "progress"]
    assert sampled[0] <= 40 - 32 and len(Cache(cache)) == 40
    assert report(out)["languages"]["es"]["prompts"] == 40
