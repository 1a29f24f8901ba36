"""`icr sft` from demonstrations to a model: the loss against fp64, what is left out, and what is not done twice."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from icr.base.errors import ConfigError, UserError
from icr.base.files import read_json
from icr.commands.main import app
from icr.config.load import load_section
from icr.config.reward_model import RECIPES
from icr.config.sft import SftConfig
from icr.experiments.sft import demonstrations, plain_train, train_sft
from loops.callbacks import read_metrics
from loops.checks import check_train
from loops.sft import sft_loss
from tests.helpers.independent import Model, rows
from tests.helpers.inline import run_inline, silent
from tests.helpers.reward_models import make_decoder, make_encoder, make_folder, pair_rows, rating_rows, write_config

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_decoder(tmp_path_factory.mktemp("base") / "decoder")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("data") / "pairs", pair_rows(24))


@pytest.fixture
def inline() -> Iterator[list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        yield run_inline(patch)


def load(folder: Path, base: Path, data: Path, /, **changes: Any) -> SftConfig:
    return load_section(SftConfig, write_config(folder, base, data, **changes))


def train(config: SftConfig) -> dict[str, Any]:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    return train_sft(config, silent())


def test_the_loss_is_that_of_the_responses_tokens(
    base: Path, data: Path, tmp_path: Path, inline: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    config = load(tmp_path, base, data, train={"batch_size": 36, "micro_batch_size": 12, "epochs": 4})
    result = train(config)
    run = tmp_path / "run"
    chosen = demonstrations(rows(data / "train.parquet"), ["en", "es"], None)
    assert result["languages"] == {"en": 18, "es": 18} and result["training"]["rows"] == len(chosen) == 36
    held = [(r["prompt_ids"], r["response_ids"]) for r in rows(run / "data.parquet") if r["held"]]
    trained = [(r["prompt_ids"], r["response_ids"]) for r in rows(run / "data.parquet") if not r["held"]]
    steps = read_metrics(run / "metrics.jsonl")
    assert steps[0]["loss"] == pytest.approx(mean_nll(base, trained), rel=1e-5)
    best = result["training"]["validation"]
    assert best["loss"] == min(row["loss"] for row in read_metrics(run / "validation.jsonl")) < steps[0]["loss"]
    assert mean_nll(run / "model", held) == pytest.approx(best["loss"], rel=1e-4)
    AutoModelForCausalLM.from_pretrained(run / "model")
    assert "supervised" in (run / "model" / "README.md").read_text()
    _, answer = trained[0]  # in the chat template, the response with the end of its turn
    model = Model(base)
    expected = -mean_nll(base, trained[:1]) * len(answer)
    assert model.logp(chosen[0].prompt, answer) == pytest.approx(expected, rel=1e-9)
    assert model.tokenizer.decode(answer) == f"{chosen[0].response}<|im_end|>"

    tasks = len(inline)
    assert train(config) == result and len(inline) == tasks
    app(["sft", str(tmp_path / "rm.yaml"), "--run", str(run)], standalone_mode=False)
    printed = capsys.readouterr().out
    assert "36 demonstrations (en 18, es 18), 4 steps" in printed and "nats a token after step" in printed
    with pytest.raises(UserError, match="other files or with other settings") as caught:
        train(load(tmp_path, base, data, train={"batch_size": 36, "micro_batch_size": 12, "epochs": 3}))
    assert "train.epochs" in str(caught.value)


def mean_nll(folder: Path, pairs: list[tuple[list[int], list[int]]]) -> float:
    """In fp64, one sequence at a time."""
    model, total = Model(folder).model, 0.0
    for prompt, answer in pairs:
        with torch.no_grad():
            logps = torch.log_softmax(model(torch.tensor([prompt + answer])).logits[0], -1)
        total -= sum(float(logps[len(prompt) - 1 + n, token]) for n, token in enumerate(answer)) / len(answer)
    return total / len(pairs)


def test_the_model_is_the_one_with_the_best_greedy_answers(
    base: Path, data: Path, tmp_path: Path, inline: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    config = load(
        tmp_path, base, data, best={"by": "rouge-l", "limit": 5, "max_tokens": 12},
        train={"batch_size": 12, "micro_batch_size": 12, "epochs": 8, "validation_steps": 2},
    )  # fmt: skip
    best = train(config)["training"]["validation"]
    run = tmp_path / "run"
    validations = read_metrics(run / "validation.jsonl")
    at = {row["step"]: row for row in validations}
    highest = max(row["rouge_l"] for row in validations)
    assert best["rouge_l"] == highest > validations[0]["rouge_l"] and best["answered"] == 10
    assert best["step"] == min(row["step"] for row in validations if row["rouge_l"] == highest)
    assert best["loss"] == at[best["step"]]["loss"]
    # the exported model answers as the one in training did: its answers, made one by one, are as near
    held = [row for row in rows(run / "data.parquet") if row["held"] and row["answered"]]
    assert len(held) == 10
    model, values = Model(run / "model"), []
    for row in held:
        answer = greedy(model, row["prompt_ids"], 12)
        texts = [model.tokenizer.decode(ids, skip_special_tokens=True) for ids in (row["response_ids"], answer)]
        values.append(f_of_common_words(*(text.lower().split() for text in texts)))
    assert sum(values) / len(values) == pytest.approx(highest, abs=1e-9)
    app(["sft", str(tmp_path / "rm.yaml"), "--run", str(run)], standalone_mode=False)
    assert f"highest ROUGE-L {highest:.4f} after step {best['step']}, of 10 greedy answers" in capsys.readouterr().out


def greedy(model: Model, prompt: list[int], most: int) -> list[int]:
    """Without a cache, a token at a time, up to the end of the turn."""
    end, answer = model.tokenizer.convert_tokens_to_ids("<|im_end|>"), list[int]()
    known = len(model.tokenizer)
    while len(answer) < most and end not in answer:
        with torch.no_grad():
            logits = model.model(torch.tensor([prompt + answer])).logits[0, -1, :known]
        answer.append(int(logits.argmax()))
    return answer


def f_of_common_words(reference: list[str], answer: list[str]) -> float:
    """F of the longest common subsequence, by recursion."""

    @cache
    def common(i: int, j: int) -> int:
        if i == len(reference) or j == len(answer):
            return 0
        if reference[i] == answer[j]:
            return 1 + common(i + 1, j + 1)
        return max(common(i + 1, j), common(i, j + 1))

    return 2 * common(0, 0) / (len(reference) + len(answer)) if reference and answer else 0.0


def test_demonstrations_are_the_good_answers_once(tmp_path: Path) -> None:
    pairs = pair_rows(4)
    assert len(demonstrations([*pairs, *pairs], ["en"], None)) == 4
    assert len(demonstrations(pairs, ["en", "es"], 3)) == 6
    good = demonstrations(rating_rows(4), ["en"], None)
    assert len(good) == 4 and all(one.response.startswith("yes") for one in good)


def test_what_is_too_long_is_counted_and_a_killed_training_goes_on(
    base: Path, data: Path, tmp_path: Path, inline: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from loops.callbacks import MetricsFile

    small = {"batch_size": 4, "micro_batch_size": 4, "epochs": 2, "save_steps": 2, "validation_steps": 3}
    calm = load(tmp_path / "calm", base, data, train=small, data={"languages": ["en"]})
    result = train(calm)
    lengths = sorted(len(r["prompt_ids"]) + len(r["response_ids"]) for r in rows(tmp_path / "calm/run/data.parquet"))
    log, calls = MetricsFile.on_log, list[int]()

    def stop(self: Any, *arguments: Any, **options: Any) -> None:
        log(self, *arguments, **options)
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt

    killed = load(tmp_path / "killed", base, data, train=small, data={"languages": ["en"]})
    monkeypatch.setattr(MetricsFile, "on_log", stop)
    with pytest.raises(KeyboardInterrupt):
        train(killed)
    assert read_json(tmp_path / "killed/run/step.json")["state"] == "running"
    assert train(killed) == result and inline.count("encode-answers") == 2
    steps = [row["step"] for row in read_metrics(tmp_path / "killed/run/metrics.jsonl")]
    assert steps == list(range(1, len(steps) + 1))
    short = load(tmp_path / "short", base, data, max_tokens=lengths[-1] - 1, data={"languages": ["en"]}, train=small)
    counts = train(short)["training"]["too_long"]
    assert sum(sum(of.values()) for of in counts.values()) == sum(n == lengths[-1] for n in lengths)


def test_everything_wrong_is_said_at_once(base: Path, data: Path, tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path / "encoder")
    with pytest.raises(ConfigError) as caught:
        train(load(tmp_path, encoder, data, data={"languages": ["en", "fr"]}, chat_template="none.jinja"))
    text = str(caught.value)
    assert "bert are not causal language models" in text and "demonstrations in fr" in text and "none.jinja" in text
    (tmp_path / "bad.jinja").write_text("{{ messages }")
    with pytest.raises(ConfigError) as caught:
        train(load(tmp_path, base, data, data={"languages": ["fr"]}, chat_template=str(tmp_path / "bad.jinja")))
    template, *rest = caught.value.problems
    assert "not valid Jinja" in template.what and template.where == f"chat_template: {tmp_path / 'bad.jinja'}"
    assert [problem.what.split()[:3] for problem in rest] == [["the", "data", "has"]] * 2  # and nothing of prompts
    with pytest.raises(ConfigError, match="the training on 2 nodes is missing"):
        train(load(tmp_path, base, data, train={"nodes": 2}))
    bare = [{**row, "prompt": ""} for row in rating_rows(24)]
    folder = make_folder(tmp_path / "bare", bare)
    with pytest.raises(ConfigError, match="answer no prompts"):
        train(load(tmp_path, base, folder))
    with pytest.raises(ConfigError, match="no meaning for supervised"):
        load(tmp_path, base, data, train={"beta": 0.5})


@pytest.mark.parametrize("name, rate", [("rmt-oasst1-sft", 1e-5), ("rmt-seahorse-sft", 1e-3)])
def test_the_recipes_are_the_papers_settings(name: str, rate: float) -> None:
    """What `loops` gets of them: Adafactor at a constant rate, from the first step on."""
    config = load_section(SftConfig, RECIPES / f"{name}.yaml")
    passed = plain_train(config)
    check_train(passed)
    assert (passed.optimizer, passed.scheduler, passed.learning_rate, passed.dropout) == (
        "adafactor", "constant", rate, 0.1,
    )  # fmt: skip
    assert passed.batch_size == 32 and config.best.by == "rouge-l"
    assert (RECIPES / f"{name}.yaml").read_text().startswith("# ")


def test_the_loss_by_hand() -> None:
    found = sft_loss(torch.tensor([-6.0, -1.0]), torch.tensor([3, 2]))
    assert found.tolist() == [2.0, 0.5]
