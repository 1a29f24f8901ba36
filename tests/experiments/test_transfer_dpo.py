"""DPO inside `icr transfer`: pairs by a reward model, a policy a cell, judged like best of n; killed, it goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from icr.base.errors import ConfigError, StageFailed
from icr.base.files import read_json, read_rows
from icr.experiments import transfer_dpo
from icr.experiments.transfer import list_transfer
from icr.report.transfer import transfer_tables, write_transfer_page
from tests.conftest import write_prompts
from tests.experiments.test_transfer_align import load, made, run, states
from tests.helpers.inline import run_inline, silent
from tests.helpers.pages import Page, assert_sound

__all__ = ["made"]

pytestmark = pytest.mark.timeout(600)
N = 4


@pytest.fixture
def inline() -> Iterator[list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        yield run_inline(patch)


@pytest.fixture
def small(made: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """One source, one target; ten prompts to train on, eight that are judged."""
    train = {
        "learning_rate": 1e-2, "batch_size": 4, "micro_batch_size": 4, "precision": "fp32", "deepspeed": "none",
        "gradient_checkpointing": False, "nll_weight": 0.0,
    }  # fmt: skip
    dpo = {"prompts": str(write_prompts(tmp_path / "trained", range(21, 31))), "train": train}
    return {**made, "languages": {"sources": ["en"], "targets": ["ru"]}, "align": {**made["align"], "dpo": dpo}}


def test_a_policy_is_trained_on_the_pairs_of_a_reward_model_and_judged(
    small: dict[str, Any], tmp_path: Path, inline: list[str], monkeypatch: pytest.MonkeyPatch, tiny_pair: Any
) -> None:
    config, folder = load(tmp_path, small), tmp_path / "run"
    planned, counts = list_transfer(config, silent())
    assert [name for name in planned if "dpo" in name] == [
        "dpo-samples-ru", "dpo-scores-en-on-ru", "dpo-en-ru", "dpo-answers-en-ru", "judge-Longer-dpo-en-ru",
    ]  # fmt: skip
    assert planned["dpo-en-ru"] == "waits for dpo-scores-en-on-ru"
    assert counts["trainings"] == 1 and counts["candidates"] == 8 * N + 10 * N + 8 and counts["questions"] == 2 * 8 * 2

    def end(*given: Any) -> Any:
        raise StageFailed("the training was killed")

    with monkeypatch.context() as patch:
        patch.setattr(transfer_dpo, "train_on_pairs", end)
        result, failed = run(config)
    assert list(failed) == ["dpo-en-ru"] and result["waiting"]["dpo-answers-en-ru"] == "dpo-en-ru"
    before, finished = len(inline), {name: of for name, of in states(folder).items() if of[0] == "done"}
    result, failed = run(config, "*dpo-*")
    assert not failed and "sample" in inline[before:] and inline[before:].count("train") == 1
    assert {name: of for name, of in states(folder).items() if name in finished} == finished

    steps = folder / "steps"
    pairs = read_rows(steps / "dpo-en-ru/pairs.parquet")
    scores = read_rows(steps / "dpo-scores-en-on-ru/ru.parquet")
    samples = {(row["prompt_id"], row["sample"]): row for row in read_rows(steps / "dpo-samples-ru/ru.parquet")}
    assert pairs and {row["lang"] for row in pairs} == {"ru"}
    for pair in pairs:
        rows = [row for row in scores if row["prompt_id"] == pair["prompt_id"]]
        own = [row["score"] for row in rows if samples[row["prompt_id"], row["sample"]]["response"]]  # empty: no answer
        assert (pair["chosen_reward"], pair["rejected_reward"]) == pytest.approx((max(own), min(own)))
        assert pair["chosen"] == samples[pair["prompt_id"], pair["chosen_sample"]]["response"]
    weights = [load_file(place / "model.safetensors") for place in (tiny_pair[0], steps / "dpo-en-ru/model")]
    assert any(np.abs(weights[0][name].numpy() - weights[1][name].numpy()).max() > 1e-3 for name in weights[0])
    answers = read_rows(steps / "dpo-answers-en-ru/ru.parquet")
    assert len(answers) == 8 and {row["sample"] for row in answers} == {0}
    ours = {row["prompt_id"]: row["response"] for row in answers}
    firsts = {r["prompt_id"]: r["response"] for r in read_rows(steps / "samples-ru/ru.parquet") if r["sample"] == 0}
    gains = [0.5 + 0.5 * np.sign(len(ours[id]) - len(firsts[id])) for id in firsts]
    [cell] = result["judges"]["Longer"]["dpo"]["cells"]
    assert cell["win_rate"] == pytest.approx(100 * np.mean(gains)) and cell["n"] == 8
    table = (folder / "tables/win_rates.csv").read_text().splitlines()
    assert table[0].startswith("judge,method,") and [line.split(",")[1] for line in table[1:]] == ["best-of-n", "dpo"]
    page = Page(write_transfer_page(result, folder).read_text(encoding="utf-8"))
    assert_sound(page)
    assert "Win rate by Longer after DPO" in page.text and transfer_tables(result)
    assert read_json(steps / "dpo-en-ru/step.json")["counts"]["training"]["steps"] >= 1

    before = len(inline)
    again, _ = run(config)
    assert again == result and len(inline) == before


def test_what_is_wrong_with_dpo_is_said_at_once(small: dict[str, Any], tmp_path: Path) -> None:
    dpo = {**small["align"]["dpo"], "prompts": small["data"]["prompts"]}
    dpo["train"] = {**dpo["train"], "batch_size": 5, "scheduler": "nothing"}
    with pytest.raises(ConfigError) as caught:
        run(load(tmp_path, small, align={**small["align"], "dpo": dpo}))
    text = str(caught.value)
    assert "prompts that are judged are also trained on: ru 8" in text and "nothing" in text and "5" in text
    dpo["prompts"] = str(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"align\.dpo\.prompts"):
        run(load(tmp_path, small, align={**small["align"], "dpo": dpo}))
