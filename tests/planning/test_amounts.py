"""Disk, questions to a judge, and lengths of answers, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from icr.base.conversation import wrap_text
from icr.base.rundir import RunDir, StageRecord
from icr.engines.sizes import CheckpointSize
from icr.planning.disk import GUESSED_TOKENIZER, plan_disk
from icr.planning.lengths import guess_lengths, probed_lengths, read_lengths
from icr.planning.questions import plan_questions
from icr.planning.rates import Observation
from icr.planning.record import is_whole
from icr.planning.texts import Texts, count_texts
from icr.planning.words import count, minutes, size
from icr.rounds.context import Inputs
from prompts.load import Prompt
from tests.helpers.planning import LANGUAGES, LENGTHS, LLAMA_8B, PARAMETERS, made_config, made_setup, of_language

ENDPOINT = {"kind": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
HELDOUT = [Prompt(str(n), lang, wrap_text(f"Why {n}?"), wrap_text(f"Why {n}?")) for lang in LANGUAGES for n in range(4)]
INPUTS = Inputs(HELDOUT, HELDOUT, [], None, "r", None)
TEXTS = Texts(dict.fromkeys(LANGUAGES, of_language(4)), dict.fromkeys(LANGUAGES, of_language(4)))


def test_models_checkpoints_and_tables() -> None:
    setup = made_setup()
    short, long = (plan_disk(setup, LENGTHS, seconds) for seconds in (800, 4000))
    assert short.model == 2 * PARAMETERS + GUESSED_TOKENIZER and short.models == 2 * short.model
    assert short.checkpoints == 0 and long.checkpoints == 2 * 14 * PARAMETERS  # none in the first 15 minutes
    assert plan_disk(setup, LENGTHS, 1000).checkpoints == 14 * PARAMETERS
    # 150,000 responses of some 440 tokens a round
    assert short.tables == pytest.approx(2 * 150_000 * (440 * 7 + 60) + 2 * 15_000 * 14 * 1080, rel=0.03)
    assert short.peak == short.kept == short.models + short.tables
    aligned = made_setup(models={"policy": None})
    assert plan_disk(aligned, LENGTHS, 0).models == 3 * short.model
    lora = plan_disk(made_setup(train={"lora": {"rank": 16}}), LENGTHS, 4000)
    adapter = CheckpointSize(1, 1, LLAMA_8B.shape.matrices()).adapter_parameters(16)
    assert lora.model == short.model + 4 * adapter and adapter == pytest.approx(42e6, rel=0.02)


def asked(**judge: Any) -> Any:
    seen = judge.pop("seen", [])
    return plan_questions(made_config(judge={**ENDPOINT, **judge}), INPUTS, TEXTS, LENGTHS, seen)


def test_questions_are_those_of_the_evaluation() -> None:
    """4 prompts in 5 languages in both orders; two answers of 450 tokens of 3.8 bytes in each."""
    found = asked(max_tokens=100_000).benchmarks["xalpaca"]
    assert found.calls == 40 and found.usd is None
    of_answers = 40 * 2 * 450 * 3.8 / 3
    assert of_answers < found.prompt_tokens < of_answers + 40 * 300  # and the rubric
    assert found.completion_tokens == 40 * 16
    assert asked(orders="seeded").benchmarks["xalpaca"].calls == 20
    both = asked(judges=[{"model": "a"}, {"model": "b"}], model=None).benchmarks["xalpaca"]
    assert both.calls == 80
    accuracy = asked(benchmarks=["xalpaca", "accuracy"], accuracy={"pairs": 3})
    assert accuracy.benchmarks["accuracy"].calls == 15
    judge = made_config(judge=ENDPOINT).judge
    assert not accuracy.in_round(judge, 0) and set(accuracy.in_round(judge, 1)) == {"xalpaca", "accuracy"}
    given = made_config(judge={**ENDPOINT, "baseline": "answers"}).judge
    assert set(accuracy.in_round(given, 0)) == {"xalpaca"}
    assert not plan_questions(made_config(), INPUTS, TEXTS, LENGTHS).benchmarks


def test_tokens_are_corrected_by_what_an_endpoint_has_counted(tmp_path: Path) -> None:
    """It counted 3 tokens where 4 were guessed, and answered with 2."""
    (tmp_path / "prices.yaml").write_text("m: {input: 10, output: 100}\n")
    prices = {"prices": str(tmp_path / "prices.yaml")}
    seen = Observation(
        stage="judge", parameters=1, precision="bf16", start=0, work=1, tokens=1, seconds=1, benchmark="xalpaca",
        calls=10, guessed=4000, prompt_tokens=3000, completion_tokens=20,
    )  # fmt: skip
    plain, corrected = asked(**prices), asked(**prices, seen=[seen])
    guess, found = plain.benchmarks["xalpaca"], corrected.benchmarks["xalpaca"]
    assert found.prompt_tokens == round(0.75 * guess.prompt_tokens) and found.completion_tokens == 80
    assert corrected.counted and not plain.counted
    assert guess.usd == pytest.approx((10 * guess.prompt_tokens + 100 * 640) / 1e6)
    assert found.usd == pytest.approx((10 * found.prompt_tokens + 100 * 80) / 1e6)
    half = asked(**prices, batch=True, seen=[seen]).benchmarks["xalpaca"]
    assert found.usd is not None and half.usd == pytest.approx(found.usd / 2)


def test_lengths_of_earlier_rounds_of_a_probe_and_of_a_table(tmp_path: Path) -> None:
    guess = guess_lengths(TEXTS)
    assert guess.uncapped["es"] == pytest.approx(1700 / 3.8) and guess.response("es", 10**6) == pytest.approx(
        1700 / 3.8
    )
    probe = probed_lengths(TEXTS, {"en": [10, 30], "es": [40]}, 48)
    assert probe.response("en", 48) == pytest.approx(20) and probe.response("es", 48) == pytest.approx(40)
    assert probe.response("ru", 48) == pytest.approx(80 / 3)  # none was asked: the mean of all
    run = RunDir(tmp_path)
    assert read_lengths(run, 48) is None
    languages = {lang: {"responses": 8, "tokens": 8 * 30} for lang in LANGUAGES}
    counts = {"prompts": 20, "languages": languages}
    run.round(1).write_stage("sample", StageRecord(state="done", started=0, counts=counts))
    pairs = {lang: {"pairs": 3} for lang in LANGUAGES}
    run.round(1).write_stage("pair", StageRecord(state="done", started=0, counts={"languages": pairs}))
    found = read_lengths(run, 48)
    assert found is not None and found.source == "round 1 of this run"
    assert found.response("ru", 48) == 30 and found.answer("ru", 48) == pytest.approx(30) and found.pairs("ru") == 0.75
    assert found.answer("ru", 400) > 35  # answers may be longer where they are not cut off at 48


def test_prompts_without_a_tokenizer_are_guessed_and_it_is_said() -> None:
    texts = count_texts(made_config(), INPUTS, None)
    assert not texts.exact and "guess" in texts.source
    assert texts.prompts["en"].prompts == 4 and texts.prompts["en"].tokens == 2 + 20  # "Why 0?" and a template


def test_a_stage_that_was_interrupted_is_no_observation() -> None:
    done = StageRecord(state="done", started=100, finished=110, seconds=10)
    assert is_whole(done) and not is_whole(done.model_copy(update={"seconds": 25.0}))
    assert not is_whole(done.model_copy(update={"state": "failed"})) and not is_whole(
        done.model_copy(update={"finished": None})
    )


def test_words() -> None:
    assert [minutes(s) for s in (0.2, 99, 120, 5900, 7200, 400_000)] == [
        "0 s",
        "99 s",
        "2 min",
        "98 min",
        "2.0 h",
        "111 h",
    ]
    assert [size(b) for b in (2**20, 2**30, 2.5 * 2**30)] == ["1.0 MiB", "1.0 GiB", "2.5 GiB"]
    assert [count(n) for n in (999, 9999, 59_412, 78_100_000, 2e9)] == ["999", "9,999", "59.4 k", "78.1 M", "2 G"]
