"""`icr rl`: the score rises within a bound of KL, measured as the equations say; what stops it; and a kill."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from icr.base.errors import ConfigError, UserError
from icr.base.files import read_json
from icr.commands.main import app
from icr.config.load import load_section
from icr.config.reward_model import RECIPES
from icr.config.rl import RLConfig
from icr.experiments.rl import train_rl
from icr.experiments.rl_heldout import compare_steps, describe_samples, read_measurements, read_samples
from icr.experiments.rl_inputs import hold_back
from icr.work.settings import USES
from loops.callbacks import read_metrics
from loops.rl_spec import HeldOutSample
from prompts.load import load_prompts
from tests.conftest import write_prompts
from tests.experiments.test_kills import check_starts, check_trainings, same_weights
from tests.helpers.forked import Job, kill_forks
from tests.helpers.independent import Model, rows
from tests.helpers.inline import run_inline, silent
from tests.helpers.reward_models import make_classifier, make_decoder

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a policy, two reward models, and prompts."""
    made = tmp_path_factory.mktemp("rl")
    make_decoder(made / "policy")
    make_classifier(made / "rm")
    make_classifier(made / "other", seed=6)
    write_prompts(made / "prompts", range(1, 17))
    return made


@pytest.fixture
def inline() -> Iterator[list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        yield run_inline(patch)


TRAIN = {
    "learning_rate": 6e-3, "scheduler": "constant", "warmup_ratio": 0.0, "batch_size": 4, "epochs": 5,
    "precision": "fp32", "deepspeed": "none", "save_steps": 2, "gradient_checkpointing": False,
}  # fmt: skip


def write(folder: Path, name: str, /, **changes: Any) -> Path:
    """A small config; keyword arguments replace keys or merge into sections."""
    config: dict[str, Any] = {
        "run": str(folder / name),
        "policy": str(folder / "policy"),
        "reward": {"model": str(folder / "rm"), "precision": "fp32"},
        "prompts": {"path": str(folder / "prompts"), "languages": ["es", "ru"]},
        "max_kl": 60,
        "sampling": {"n": 8, "max_tokens": 8},
        "heldout": {"prompts": 8, "every": 8, "samples": 4, "reward_models": {"other": str(folder / "other")}},
        "train": TRAIN,
    }
    for key, value in changes.items():
        config[key] = {**config.get(key, {}), **value} if isinstance(value, dict) else value
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder / f"{name}.yaml"


def train(file: Path) -> dict[str, Any]:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    return train_rl(load_section(RLConfig, file), silent())


def test_the_score_rises_and_everything_measured_is_so(
    folder: Path, inline: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file, run = write(folder, "run"), folder / "run"
    result = train(file)
    measured = read_measurements(run)
    assert [row["step"] for row in measured] == [0, 8, 16, 20] and len(measured[0]["languages"]) == 2
    assert result["prompts"] == {"train": {"es": 8, "ru": 8}, "heldout": {"es": 8, "ru": 8}}
    assert result["training"]["samples"] == 20 * 4 * 8 and not result["training"]["stopped_by_kl"]
    rise = result["rise"]["reward"]
    assert rise["low"] > 0 and rise["prompts"] == 8
    assert measured[0]["kl"] == measured[0]["kl_se"] == 0 and 0 < measured[-1]["kl"] < 60
    steps = read_metrics(run / "metrics.jsonl")
    assert [row["step"] for row in steps] == list(range(1, 21)) and steps[-1]["epoch"] == 5
    assert steps[0]["kl"] == 0 and steps[-1]["reward"] > steps[0]["reward"]

    samples, last = rows(run / "heldout" / "step-20.parquet"), measured[-1]
    assert len(samples) == 64 and {s["lang"] for s in samples} == {"es", "ru"}
    policy, start = Model(run / "model"), Model(folder / "policy")
    for sample in samples[:6]:  # the words of the response are not all of its tokens: an end of turn is one, too
        ids = policy.tokenizer(sample["response"], add_special_tokens=False)["input_ids"]
        if policy.tokenizer.decode(ids) != sample["response"] or len(ids) != sample["tokens"]:
            continue
        exact = policy.logp(sample["prompt"], ids) - start.logp(sample["prompt"], ids)
        assert sample["log_ratio"] == pytest.approx(exact, abs=1e-3)
    by_prompt = {
        id: np.mean([np.mean([s["log_ratio"] for s in samples if (s["prompt_id"], s["lang"]) == (id, lang)])
                     for lang in ("es", "ru")])
        for id in {s["prompt_id"] for s in samples}
    }  # fmt: skip
    values = np.array(list(by_prompt.values()))
    assert last["kl"] == pytest.approx(values.mean()) and len(values) == 8
    assert last["kl_se"] == pytest.approx(values.std(ddof=1) / math.sqrt(8))
    check_scores(folder / "rm", samples, "score_reward")
    check_scores(folder / "other", samples, "score_other")
    assert last["scores"]["reward"]["mean"] == pytest.approx(np.mean([s["score_reward"] for s in samples]))
    assert "RLOO" in (run / "model" / "README.md").read_text()
    AutoModelForCausalLM.from_pretrained(run / "model")
    assert not (run / "checkpoints").exists() and not (run / "best").exists()

    tasks = len(inline)
    assert train(file) == result and len(inline) == tasks
    app(["rl", str(file)], standalone_mode=False)
    printed = capsys.readouterr().out
    assert "20 of 20 steps, 640 samples" in printed and "score under reward, step 0 to 20: +" in printed
    app(["rl", str(file), "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out) == result
    with pytest.raises(UserError, match="other files or with other settings") as caught:
        train(write(folder, "run", max_kl=3))
    assert "max_kl" in str(caught.value)


def check_scores(folder: Path, samples: list[dict[str, Any]], column: str) -> None:
    """By the classifier alone, one conversation at a time, in the chat template with the end of the answer's turn."""
    from transformers import AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for sample in samples[:4]:
        talk = [{"role": "user", "content": sample["prompt"]}, {"role": "assistant", "content": sample["response"]}]
        ids = tokenizer(tokenizer.apply_chat_template(talk, tokenize=False), add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            assert sample[column] == pytest.approx(float(model(torch.tensor([ids])).logits[0, 0]), abs=1e-4)


def test_it_stops_when_the_kl_is_above_its_bound(folder: Path, inline: list[str]) -> None:
    """The policy of the measurement before is the result."""
    result = train(write(folder, "bound", max_kl=4.5, heldout={"every": 1, "reward_models": {}}))
    measured = {row["step"]: row["kl"] for row in read_measurements(folder / "bound")}
    last, step = max(measured), result["training"]["step"]
    assert result["training"]["stopped_by_kl"] and last < 20 and step == last - 1
    assert measured[last] > 4.5 >= measured[step] and result["last"]["step"] == step
    ids = Model(folder / "bound" / "model")
    assert sum(float((a - b).abs().sum()) for a, b in zip(
        ids.model.parameters(), Model(folder / "policy").model.parameters(), strict=True)) > 0  # fmt: skip
    with pytest.raises(UserError, match=r"above 0.001 nats per sequence at the first measurement"):
        train(write(folder, "narrow", max_kl=0.001, heldout={"every": 8}))
    assert read_json(folder / "narrow" / "step.json")["state"] == "failed"


def test_a_killed_training_goes_on_to_the_same_policy(folder: Path) -> None:
    """SIGKILL inside the training: the measurements and weights of one that was left in peace."""
    file = write(folder, "unused", heldout={"every": 3}, train={"epochs": 3})
    job = Job(command=["rl", str(file)], calm=str(folder / "calm"), killed=str(folder / "killed"), kills=3, training=1,
              longest=2.0, inline=True)  # fmt: skip
    (starts,) = kill_forks(folder, [job])
    check_starts(starts, 2)
    one, other = folder / "calm", folder / "killed"
    assert same_weights(one / "model", other / "model")
    check_trainings(other)
    assert (one / "heldout.jsonl").read_bytes() == (other / "heldout.jsonl").read_bytes()
    assert read_json(one / "rl.json") == read_json(other / "rl.json")


def test_prompts_that_are_too_long_are_counted(folder: Path, inline: list[str]) -> None:
    long = folder / "long"
    write_prompts(long, range(1, 13))
    with open(long / "es.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"id": "long", "instruction": "¿Cuál es la capital de Francia? " * 60}) + "\n")
    heldout = {"path": str(write_prompts(folder / "apart", range(21, 25))), "prompts": 4, "every": 99}
    small = {"batch_size": 3, "epochs": 0.5, "lora": {"rank": 2}}
    result = train(write(folder, "cut", prompts={"path": str(long), "languages": ["es"]}, heldout=heldout, train=small))
    assert result["training"]["too_long"] == {"train": {"es": 1}} and result["training"]["prompts"] == 12
    assert result["training"]["steps"] == 2 and (folder / "cut" / "adapter").is_dir()


def test_everything_wrong_is_said_at_once(folder: Path) -> None:
    make_classifier(folder / "two", labels=2)
    wrong = write(
        folder, "wrong", policy=str(folder / "none"), reward={"model": str(folder / "two")},
        heldout={"prompts": 16, "reward_models": {"x": str(folder / "two")}}, train={"micro_batch_size": 3},
        chat_template="none.jinja",
    )  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        train(wrong)
    text = str(caught.value)
    assert text.count("the classifier has 2 logits") == 2 and "heldout.reward_models.x" in text
    assert "policy" in text and "leave none to train on" in text and "none.jinja" in text
    assert "cannot be split" in text
    (folder / "bad.jinja").write_text("{{ messages }")
    with pytest.raises(ConfigError, match=r"not valid Jinja.*\n.*chat_template: .*bad.jinja"):
        train(write(folder, "broken", chat_template=str(folder / "bad.jinja")))
    same = write(folder, "same", heldout={"path": str(folder / "prompts")}, train={"batch_size": 64, "epochs": 1})
    with pytest.raises(ConfigError) as caught:
        train(same)
    assert "8 held-out prompts in es are also training prompts" in str(caught.value)
    assert "32 prompts to train on are fewer than a batch of 64" in str(caught.value)
    for key, value, said in (
        ("reward", {"beta": -0.1}, "reward.beta"),
        ("train", {"dropout": 0.1}, "dropout has no meaning"),
        ("heldout", {"reward_models": {"reward": "x"}}, "has the name reward"),
        ("sampling", {"n": 1}, "sampling.n"),
        ("max_kl", 0, "max_kl"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_section(RLConfig, write(folder, "bad", **{key: value}))
    vllm = write(folder, "vllm", sampling={"backend": "vllm"})
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="needs a GPU"):
            train(vllm)


def test_the_recipe_is_read() -> None:
    config = load_section(RLConfig, RECIPES / "rmt-rl.yaml")
    assert config.reward.beta == 0.1 and config.prompts.languages == ["de"]


def test_held_back_prompts_are_whole_in_all_languages(folder: Path) -> None:
    prompts = load_prompts(str(folder / "prompts"), ["es", "ru"], pivot="")
    one, other = hold_back(prompts, 5, 42), hold_back(prompts, 5, 42)
    assert one == other != hold_back(prompts, 5, 1)
    kept, held = one
    assert len(held) == 10 and not {p.id for p in kept} & {p.id for p in held}


def sample(id: str, ratio: float, tokens: int, reward: float | None) -> HeldOutSample:
    return HeldOutSample(
        prompt_id=id, lang="es", sample=0, prompt="?", response="sí", tokens=tokens, finish_reason="stop",
        log_ratio=ratio, scores={"reward": reward},
    )  # fmt: skip


def test_kl_and_rise_by_hand() -> None:
    samples = [sample("a", 2.0, 4, 1.0), sample("b", 6.0, 8, None), sample("c", 1.0, 3, 2.0)]
    found = describe_samples(samples, 0.5)
    assert (found["kl"], found["kl_per_token"], found["unscored"]) == (3.0, 9 / 15, 1)
    assert found["kl_se"] == pytest.approx(math.sqrt(7 / 3))  # deviations −1, 3, −2: 14 / 2 / 3
    # 2 − 0.6·4, 6 − 0.6·8, 1 − 0.6·3 = −0.4, 1.2, −0.8; √(2.24·3/2) / 15
    assert found["kl_per_token_se"] == pytest.approx(math.sqrt(2.24 * 1.5) / 15)
    assert found["scores"]["reward"]["mean"] == 1.5
    assert found["reward_with_kl"]["mean"] == pytest.approx((0.0 + 1.5) / 2)
    after = [sample("a", 0, 1, 2.0), sample("b", 0, 1, 5.0), sample("c", 0, 1, 5.0)]
    rise = compare_steps(samples, after)["reward"]
    assert (rise.value, rise.n) == (2.0, 2)  # +1 and +3; b has no score before
    with pytest.raises(UserError, match="none of the held-out samples"):
        describe_samples([sample("a", 0, 1, None)], 0.1)


def test_every_key_counts_or_is_known_not_to() -> None:
    """A key that is not in the step may be changed at a restart."""
    from icr.experiments.rl_inputs import FREE, INPUTS

    keys = {f"train.{name}" for name in RLConfig.model_fields["train"].default.model_dump()}
    assert {key for key in keys if USES.get(key) == ("operational",)} >= {"train.processes", "train.save_minutes"}
    assert not set(INPUTS) & set(FREE)


def test_samples_survive_their_table(folder: Path, tmp_path: Path) -> None:
    from icr.experiments.rl_heldout import write_measurement

    first = [sample("a", 2.0, 4, 1.0), sample("b", 6.0, 8, None)]
    figures = write_measurement(tmp_path, 0.5, 0, first)
    assert figures["kl"] == 4.0 and figures["reward"] == 1.0 and read_samples(tmp_path, 0) == first
    for step in (5, 9):
        write_measurement(tmp_path, 0.5, step, first)
    write_measurement(tmp_path, 0.5, 5, first)  # again, after a kill
    assert [row["step"] for row in read_measurements(tmp_path)] == [0, 5]
    assert sorted(file.stem for file in (tmp_path / "heldout").iterdir()) == ["step-0", "step-5"]
