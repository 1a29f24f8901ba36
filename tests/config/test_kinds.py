"""Which config is for which command."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from icr.base.errors import UserError
from icr.config.kinds import KINDS, Kind, find_any_recipe, list_recipes
from icr.config.load import find_config, load_section
from icr.config.reward_model import RewardModelConfig
from icr.config.rl import RLConfig
from icr.config.schema import Config
from icr.config.sft import SftConfig
from icr.config.transfer import TransferConfig

RECIPES = list_recipes()


def refusal(name: str, kind: Kind = Config) -> str:
    with pytest.raises(UserError) as caught:
        find_config(name, kind)
    return str(caught.value)


def test_only_recipes_of_the_command_are_offered() -> None:
    assert "rmt-oasst1-sft, rmt-seahorse-sft;" in refusal("nosuch", SftConfig)
    assert "the name of a recipe: rmt-rl;" in refusal("nosuch", RLConfig)
    assert "did you mean quickstart?" in refusal("quikstart")
    said = refusal("nosuch", TransferConfig)
    assert "recipe" not in said and "docs/transfer-matrix.md shows one" in said


def test_a_recipe_of_another_command_is_named_with_it() -> None:
    assert "write: icr iterate --config llama3-8b" in refusal("llama3-8b", SftConfig)
    assert "rmt-rl is a recipe of icr rl, not of icr iterate" in refusal("rmt-rl")
    # two commands have a recipe of this name
    of = {kind: find_config("llama3.2-3b-24gb", kind).parent.name for kind in (Config, RewardModelConfig)}
    assert of == {Config: "configs", RewardModelConfig: "reward-models"}
    assert find_any_recipe("reward-models/llama3.2-3b-24gb")[1] is RewardModelConfig
    with pytest.raises(UserError, match=r"did you mean rmt-rl\?"):
        find_any_recipe("rmt-rll")


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    assert f"name a file, such as {tmp_path / 'config.yaml'}" not in refusal(str(tmp_path))
    (tmp_path / "config.yaml").write_text("rounds: 1\n")
    assert f"name a file, such as {tmp_path / 'config.yaml'}" in refusal(str(tmp_path))
    for name in ("nosuch.yaml", "runs/nosuch"):
        assert f"file {name} not found" in refusal(name) and "icr recipes" in refusal(name)


@pytest.mark.parametrize(("name", "kind"), list(product(RECIPES, KINDS)), ids=str)
def test_a_config_of_another_command_is_one_problem(name: str, kind: Kind) -> None:
    file, own = RECIPES[name]
    if kind is own or ((own, kind) == (RewardModelConfig, SftConfig) and "loss:" not in file.read_text()):
        load_section(kind, file)  # what has only keys of both may be meant for both
        return
    with pytest.raises(UserError, match=f"is a config of {own.command}, not of {kind.command}") as caught:
        load_section(kind, file)
    assert f"write: {own.command}" in str(caught.value)


def test_a_misspelled_key_makes_no_other_kind(tmp_path: Path) -> None:
    (file := tmp_path / "x.yaml").write_text("base: org/x\ndata: {path: p}\nlos: pairwise\ntruncat: left\n")
    with pytest.raises(UserError, match="unknown key `los`"):
        load_section(RewardModelConfig, file)
    (file := tmp_path / "y.yaml").write_text("models: {reference: a/b}\nprompts: {path: p, languages: [en]}\nruns: 1\n")
    with pytest.raises(UserError, match="is a config of icr iterate"):
        load_section(RLConfig, file)
