"""Every recipe of configs/reward-models trains: all of its keys, on a tiny base, a few rows and one CPU process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from icr.base.files import read_json
from icr.commands.main import app
from icr.config.reward_model import RECIPES
from loops.callbacks import read_metrics
from tests.conftest import write_prompts
from tests.helpers.inline import run_inline
from tests.helpers.reward_models import (
    make_classifier,
    make_decoder,
    make_encoder,
    make_folder,
    pair_rows,
    rating_rows,
)

pytestmark = pytest.mark.timeout(600)
SMALL = ("train.precision=fp32", "train.deepspeed=none", "train.gradient_checkpointing=false", "train.epochs=1")
"""In place of what needs a GPU or takes long."""


@pytest.fixture
def inline() -> Iterator[list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        yield run_inline(patch)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bases, data in English and German, prompts."""
    folder = tmp_path_factory.mktemp("recipes")
    make_encoder(folder / "encoder")
    make_decoder(folder / "decoder")
    make_classifier(folder / "rm")
    for name, make in (("pairs", pair_rows), ("ratings", rating_rows)):
        rows = [{**row, "lang": row["lang"].replace("es", "de")} for row in make(44)]
        make_folder(folder / name, rows)
    prompts = write_prompts(folder / "prompts", range(1, 49))
    (prompts / "ru.jsonl").rename(prompts / "de.jsonl")
    heldout = write_prompts(folder / "heldout", range(51, 57))
    (heldout / "ru.jsonl").rename(heldout / "de.jsonl")
    return folder


def command_of(name: str) -> list[str]:
    """By the recipe's name, as its comment has it."""
    return ["rl"] if name.endswith("-rl") else ["sft"] if name.endswith("-sft") else ["rm", "train"]


@pytest.mark.parametrize("name", sorted(file.stem for file in RECIPES.glob("*.yaml")))
def test_a_recipe_trains(name: str, made: Path, tmp_path: Path, inline: list[str]) -> None:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    recipe: dict[str, Any] = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
    data = "ratings" if "seahorse" in name else "pairs"
    changes: list[str] = list(SMALL)
    if name.endswith("-rl"):
        changes += [f"policy={made / 'decoder'}", f"reward.model={made / 'rm'}", "sampling.max_tokens=8"]
        changes += [f"prompts.path={made / 'prompts'}", f"heldout.path={made / 'heldout'}", "heldout.prompts=4"]
    else:
        encoder = recipe["base"].startswith("FacebookAI/")
        changes += [f"base={made / ('encoder' if encoder else 'decoder')}", f"data.path={made / data}"]
    if "best" in recipe:
        changes += ["best.limit=4", "best.max_tokens=8"]
    settings = [word for change in changes for word in ("--set", change)]
    done = CliRunner().invoke(app, [*command_of(name), name, *settings, "--run", str(tmp_path / "run"), "--json"])
    assert done.exit_code == 0, f"{done.output}\n{done.exception}"
    result = json.loads(done.stdout)
    train, steps = recipe["train"], read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert result["training"]["steps"] == len(steps) > 0 and (tmp_path / "run/model/model.safetensors").is_file()
    if train.get("scheduler") == "constant":
        assert {row["learning_rate"] for row in steps} == {train["learning_rate"]}
    if train.get("warmup_steps"):  # far from its end
        assert 0 < steps[-1]["learning_rate"] < train["learning_rate"]
    if "best" in recipe:
        assert result["training"]["validation"]["rouge_l"] >= 0
    kept = yaml.safe_load((tmp_path / "run/config.yaml").read_text(encoding="utf-8"))
    for key in ("optimizer", "batch_size", "dropout", "lora", "patience"):
        if key in train and not isinstance(train[key], dict):
            assert kept["train"][key] == train[key]
    assert read_json(tmp_path / "run" / "step.json")["state"] == "done"
