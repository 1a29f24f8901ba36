"""RLOO inside `icr transfer`: a policy a cell, measured under the target's own reward model too; killed, it goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from safetensors.torch import load_file

from icr.base.errors import ConfigError, StageFailed
from icr.base.files import read_rows
from icr.config.load import load_section
from icr.config.transfer import TransferConfig
from icr.experiments import rl_process
from icr.experiments.cells import CONFIG
from icr.experiments.rl_heldout import read_measurements, read_samples, write_measurement
from icr.experiments.transfer import list_transfer
from icr.experiments.transfer_checks import check_experiment
from icr.experiments.transfer_plan import plan_models
from icr.report.numbers import number
from icr.report.transfer import write_transfer_page
from icr.report.transfer_align import describe_work, gain_tables, rl_table
from icr.report.transfer_status import transfer_status
from loops.callbacks import read_metrics
from prompts.load import load_prompts
from tests.conftest import write_prompts
from tests.experiments.test_transfer_align import load, made, run, states
from tests.helpers.inline import run_inline, silent
from tests.helpers.pages import Page, assert_sound

__all__ = ["made"]

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def inline() -> Iterator[list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        yield run_inline(patch)


@pytest.fixture
def small(made: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """One source, one target; twelve prompts to train on or to hold out, eight that are judged."""
    train = {
        "learning_rate": 1e-2, "batch_size": 2, "epochs": 1, "warmup_ratio": 0.0, "precision": "fp32",
        "deepspeed": "none", "save_steps": 1, "gradient_checkpointing": False,
    }  # fmt: skip
    write_prompts(tmp_path / "trained", range(21, 33))
    rl = {
        "prompts": "trained", "beta": 0.05, "sampling": {"n": 2, "max_tokens": 8},
        "heldout": {"prompts": 6, "every": 2}, "train": train,
    }  # fmt: skip
    return {**made, "languages": {"sources": ["en"], "targets": ["ru"]}, "align": {**made["align"], "rl": rl}}


def test_a_policy_is_trained_on_the_scores_of_a_reward_model_and_judged(
    small: dict[str, Any], tmp_path: Path, inline: list[str], monkeypatch: pytest.MonkeyPatch, tiny_pair: Any
) -> None:
    small["languages"] = {"sources": ["en", "ru"], "targets": ["ru"]}
    config, folder = load(tmp_path, small), tmp_path / "run"
    planned, counts = list_transfer(config, silent())
    assert [name for name in planned if "rl-" in name] == [
        "rl-en-ru", "rl-ru-ru", "rl-answers-en-ru", "rl-answers-ru-ru",
        "judge-Longer-rl-en-ru", "judge-Longer-rl-ru-ru",
    ]  # fmt: skip
    assert planned["rl-en-ru"] == "waits for rm-en" and counts["rl_trainings"] == 2
    # a training: 6 prompts twice in 3 steps, and 6 held-out prompts before step 1, after 2, at the end
    assert counts["rl_samples"] == 2 * (6 * 2 + 3 * 6) and counts["questions"] == 2 * 2 * 8 * 2
    assert "2 trainings by RLOO: at most 60 samples of at most 480 tokens" in describe_work(config, counts)

    def end(run: Path, beta: float, step: int, samples: Any) -> dict[str, float]:
        if step:
            raise StageFailed("the training was killed")
        return write_measurement(run, beta, step, samples)

    run(config, "rm-*")
    with monkeypatch.context() as patch:
        patch.setattr(rl_process, "write_measurement", end)
        result, failed = run(config, "rl-en-ru")
    steps = folder / "steps"
    assert list(failed) == ["rl-en-ru"] and result["waiting"]["rl-answers-en-ru"] == "rl-en-ru"
    assert (steps / "rl-en-ru/checkpoints").is_dir() and states(folder)["rl-en-ru"][0] == "failed"
    assert transfer_status(folder, held=False).failed == ["rl-en-ru"]
    finished = {name: of for name, of in states(folder).items() if of[0] == "done"}
    before = len(inline)
    result, failed = run(config)
    assert not failed and not result["waiting"] and inline[before:].count("train") == 2
    assert {name: of for name, of in states(folder).items() if name in finished} == finished
    assert [row["step"] for row in read_metrics(steps / "rl-en-ru/metrics.jsonl")] == [1, 2, 3]
    assert [row["step"] for row in read_measurements(steps / "rl-en-ru")] == [0, 2, 3]

    weights = [load_file(place / "model.safetensors") for place in (tiny_pair[0], steps / "rl-en-ru/model")]
    assert any(np.abs(weights[0][name].numpy() - weights[1][name].numpy()).max() > 1e-3 for name in weights[0])
    was, now = (read_samples(steps / "rl-en-ru", step) for step in (0, 3))
    assert {s.prompt_id for s in now} < {f"p{n}" for n in range(21, 33)} and {s.lang for s in now} == {"ru"}
    en, ru = result["rl"]
    assert (en["source"], en["target"], en["steps"], en["prompts"]) == ("en", "ru", 3, 6)
    for key, name in (("rise", "reward"), ("rise_by_target", "ru")):
        gaps = [after.scores[name] - of.scores[name] for of, after in zip(was, now, strict=True)]  # type: ignore[operator]
        assert en[key] == pytest.approx(np.mean(gaps)) and en[f"{key}_interval"][0] < en[key]
    assert en["kl"] == pytest.approx(np.mean([s.log_ratio for s in now])) != 0
    assert en["length_before"] == pytest.approx(np.mean([len(s.response) for s in was]))
    assert (ru["source"], ru["rise_by_target"]) == ("ru", None)

    answers = read_rows(steps / "rl-answers-en-ru/ru.parquet")
    assert len(answers) == 8 and {row["sample"] for row in answers} == {0}
    ours = {row["prompt_id"]: row["response"] for row in answers}
    firsts = {r["prompt_id"]: r["response"] for r in read_rows(steps / "samples-ru/ru.parquet") if r["sample"] == 0}
    gains = [0.5 + 0.5 * np.sign(len(ours[id]) - len(firsts[id])) for id in firsts]
    cell = result["judges"]["Longer"]["rl"]["cells"][0]
    assert cell["win_rate"] == pytest.approx(100 * np.mean(gains)) and cell["source"] == "en"
    lines = (folder / "tables/rl.csv").read_text().splitlines()
    assert lines[0].startswith("source,target,steps,stopped_by_kl,rise,rise_low,rise_high,rise_by_target,")
    rates = (folder / "tables/win_rates.csv").read_text().splitlines()
    assert [line.split(",")[1] for line in rates[1:]] == ["best-of-n"] * 2 + ["rl"] * 2
    page = Page(write_transfer_page(result, folder).read_text(encoding="utf-8"))
    assert_sound(page)
    assert "Win rate by Longer after RLOO" in page.text and "Policies trained by RLOO" in page.text
    assert len(gain_tables(result)) == 10
    with (shown := Console(width=80)).capture() as printed:
        shown.print(rl_table([en, {**ru, "stopped_by_kl": True}]))
    low, high = (number(x, 2) for x in en["rise_interval"])
    assert f"{low} … {high}" in printed.get() and f"{number(ru['kl'], 2)}* " in printed.get()

    before = len(inline)
    again, _ = run(config)
    assert again == result and len(inline) == before
    assert set(list_transfer(load_section(TransferConfig, folder / CONFIG), silent())[0].values()) == {"done"}


def test_a_targets_own_model_that_comes_later_trains_no_policy_again(
    small: dict[str, Any], tmp_path: Path, inline: list[str]
) -> None:
    result, failed = run(load(tmp_path, small), "r[lm]-*")
    assert not failed and [row["rise_by_target"] for row in result["rl"]] == [None]
    more = load(tmp_path, small, languages={"sources": ["en", "ru"], "targets": ["ru"]})
    run(more, "rm-ru")
    planned, _ = list_transfer(more, silent())
    assert planned["rl-en-ru"] == "done" and planned["rl-ru-ru"] == "to do"
    other = {**small["align"], "rl": {**small["align"]["rl"], "beta": 0.2}}
    _, failed = run(load(tmp_path, small, align=other), "rl-*")
    assert "align.rl.beta: 0.05 → 0.2" in str(failed["rl-en-ru"])


def test_what_is_wrong_with_rl_is_said_at_once(small: dict[str, Any], tmp_path: Path) -> None:
    rl = {**small["align"]["rl"], "prompts": small["data"]["prompts"], "sampling": {"n": 4}}
    rl["train"] = {**rl["train"], "batch_size": 5, "micro_batch_size": 3, "scheduler": "nothing"}
    with pytest.raises(ConfigError) as caught:
        run(load(tmp_path, small, align={**small["align"], "rl": rl}))
    text = str(caught.value)
    assert "prompts that are judged are also trained on: ru 8" in text and "align.rl.allow_overlap" in text
    assert "where: align.rl.train.batch_size, align.rl.train.micro_batch_size" in text and " train." not in text
    assert "nothing" in text and "cannot be split" in text and "2 prompts to train on are fewer" in text
    rl["heldout"] = {"prompts": 8}
    gguf = tmp_path / "policy.gguf"
    gguf.write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match=r"leave none to train on\n.*align\.rl\.heldout\.prompts") as caught:
        run(load(tmp_path, small, align={**small["align"], "policy": str(gguf), "rl": rl}))
    assert "a .gguf file cannot be trained" in str(caught.value)
    rl["prompts"] = str(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"align\.rl\.prompts"):
        run(load(tmp_path, small, align={**small["align"], "rl": rl}))
    for key, value, said in (("beta", -1, "beta"), ("max_kl", 0, "max_kl"), ("train", {"dropout": 0.1}, "no meaning")):
        with pytest.raises(ConfigError, match=said):
            load(tmp_path, small, align={**small["align"], "rl": {**rl, key: value}})


def test_own_held_out_prompts(small: dict[str, Any], tmp_path: Path) -> None:
    write_prompts(tmp_path / "own", range(41, 51))
    small["align"]["rl"]["heldout"]["path"] = "own"
    config = load(tmp_path, small)
    found = check_experiment(config, plan_models(config)).align
    assert found is not None
    train, heldout = found.rl["ru"]
    assert (len(train), len(heldout)) == (12, 6)  # all that are trained on, and the first six
    own = load_prompts(str(tmp_path / "own"), ["ru"], limit=6, pivot="")
    assert [prompt.text for prompt in heldout] == [prompt.text for prompt in own]
    small["align"]["rl"]["heldout"]["path"] = "trained"
    with pytest.raises(ConfigError, match="6 held-out prompts in ru are also training prompts") as caught:
        list_transfer(load(tmp_path, small), silent())
    assert "align.rl.prompts and align.rl.heldout.path" in str(caught.value)
