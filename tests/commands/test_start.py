from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from icr.base.errors import UserError
from icr.base.yaml_text import read_yaml
from icr.commands import main
from icr.commands.main import app
from icr.config.kinds import KINDS, SCHEMA_LINE, Kind, list_recipes, schema_file, write_command
from icr.config.load import find_config, load_config, load_section
from icr.config.rl import RLConfig
from icr.config.schema import CONFIGS, Config
from icr.engines.precision import has_bf16

RECIPES = list_recipes()
run = CliRunner().invoke


def test_version_and_module() -> None:
    done = subprocess.run([sys.executable, "-m", "icr", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == run(app, ["--version"]).stdout
    assert done.stdout.startswith("icr ")


def test_no_line_of_help_is_cut() -> None:
    for command in ([], ["judge"], ["prompts"], ["data"], ["rm"]):
        text = run(app, [*command, "-h"]).stdout
        assert not [line for line in text.splitlines() if line.endswith("...") and "Usage" not in line]


def test_env_has_hardware_and_no_path() -> None:
    found = json.loads(run(app, ["env", "--json"]).stdout)
    assert found["bf16 instructions"] == has_bf16() and found["packages"]["torch"]
    assert str(Path.home()) not in json.dumps(found)
    assert "processor cores" in run(app, ["env"]).stdout


def test_recipes_are_listed_with_their_command_and_a_whole_sentence() -> None:
    found = json.loads(run(app, ["recipes", "--json"]).stdout)
    assert found["llama3-8b-kto"] == {"command": "icr iterate", "is": "KTO instead of DPO, from the SFT-KTO policy."}
    assert [found[name]["command"] for name in ("rmt-rl", "rmt-oasst1-sft", "rmt-oasst1")] == [
        "icr rl", "icr sft", "icr rm train",
    ]  # fmt: skip
    texts = [recipe["is"] for recipe in found.values()]
    assert not [text for text in texts if text.endswith("Eq.") or "yaml-language-server" in text]
    listed = {file for file, _ in RECIPES.values()}
    assert listed == {*CONFIGS.glob("*.yaml"), *CONFIGS.glob("reward-models/*.yaml")} and len(found) == len(listed)
    assert "icr rm train" in run(app, ["recipes"]).stdout


def test_init_makes_a_config(tmp_path: Path) -> None:
    out = tmp_path / "mine.yaml"
    made = run(app, ["init", "-o", str(out)])  # no terminal: nothing is asked
    assert made.exit_code == 0 and "note: no terminal, so the defaults were used; edit the file" in made.stderr
    assert "terminal" not in run(app, ["init", "--yes", "-o", str(tmp_path / "yes.yaml")]).stderr
    config = load_config(out)
    assert config.prompts.languages == ["en", "es", "sw", "th"] and config.judge.kind == "none"
    assert f"icr validate {out}" in out.read_text(encoding="utf-8")
    again = run(app, ["init", "-o", str(out)])
    assert "exists" in str(again.exception)
    assert "not a .yaml file" in str(run(app, ["init", "-o", str(tmp_path / "mine.json")]).exception)


def test_init_asks_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    answers = iter(["org/chat", "org/base", "bn en", "./p", "openai", "judge-model", "./h"])

    def answer(question: str, **_: object) -> str:
        asked.append(question)
        return next(answers)

    monkeypatch.setattr("typer.prompt", answer)
    monkeypatch.setattr("icr.commands.start.sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
    from icr.commands.start import init

    out = tmp_path / "mine.yaml"
    init(None, out)
    config = load_config(out)
    assert len(asked) == 7 and config.models.policy == "org/chat"
    assert config.prompts.languages == ["en", "bn"] and config.judge.model == "judge-model"
    assert config.judge.base_url == "http://localhost:8000/v1"


def test_init_asks_again_for_what_it_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = iter(["org/chat", "org/base", "spanish", "es", "./p", "gpt", "local", "org/judge", "./h"])
    monkeypatch.setattr("typer.prompt", lambda question, **_: next(answers))
    monkeypatch.setattr("icr.commands.start.sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
    from icr.commands.start import init

    init(None, tmp_path / "mine.yaml")
    config = load_config(tmp_path / "mine.yaml")
    assert config.prompts.languages == ["en", "es"] and (config.judge.kind, config.judge.model) == (
        "local",
        "org/judge",
    )
    said = capsys.readouterr().err
    assert (
        "'spanish' is not an ISO 639-1 language code" in said
        and "unknown judge gpt: answer openai, local or none" in said
    )


@pytest.mark.parametrize("name", RECIPES)
def test_init_copies_a_recipe(name: str, tmp_path: Path) -> None:
    recipe, kind = RECIPES[name]
    out = tmp_path / "mine.yaml"
    made = run(app, ["init", name, "-o", str(out)])
    assert made.exit_code == 0 and out.read_text(encoding="utf-8").startswith(SCHEMA_LINE + str(schema_file(kind)))
    ways = [f"icr validate {out}"] * (kind is Config)
    assert made.stdout.split("next:\n")[1].strip().split("\n  ") == [*ways, write_command(kind, out)]
    copy, original = load_section(kind, out).model_dump(), load_section(kind, recipe).model_dump()
    assert copy["train"] == original["train"] and copy.get("sampling") == original.get("sampling")
    if name == "quickstart":  # its data is in the package
        assert copy["prompts"]["path"] == original["prompts"]["path"] and copy["alignment"] == original["alignment"]
    assert find_config(name, kind) == find_config(recipe.stem, kind) == recipe


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_schema_is_that_of_its_config(kind: Kind) -> None:
    from docs.make_schema import render

    assert schema_file(kind).read_text(encoding="utf-8") == render(kind), "run: python -m docs.make_schema"


def test_a_schema_has_no_key_that_is_refused() -> None:
    schema = json.loads((CONFIGS / "rl.schema.json").read_text(encoding="utf-8"))
    with pytest.raises(jsonschema.ValidationError, match="nll_weight"):
        jsonschema.validate(
            {**yaml.safe_load(find_config("rmt-rl", RLConfig).read_text()), "train": {"nll_weight": 1}}, schema
        )


@pytest.mark.parametrize("name", RECIPES)
def test_editors_check_recipes(name: str) -> None:
    recipe, kind = RECIPES[name]
    first, _, text = recipe.read_text(encoding="utf-8").partition("\n")
    named = (recipe.parent / first.removeprefix(SCHEMA_LINE)).resolve()
    assert first.startswith(SCHEMA_LINE) and named == schema_file(kind)
    schema = json.loads(named.read_text(encoding="utf-8"))
    jsonschema.validate(yaml.safe_load(text), schema)
    wrong = {**yaml.safe_load(text), "objektive": "dpo"}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema)
    assert read_yaml(recipe, "the recipe").data


def test_a_file_that_is_taken_for_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"mine\.yaml is not a recipe") as caught:
        run(app, ["init", "mine.yaml"], standalone_mode=False, catch_exceptions=False)
    assert "icr init -o mine.yaml" in str(caught.value) and not (tmp_path / "mine.yaml").exists()


@pytest.mark.parametrize(("command", "keeps"), [("chat", False), ("iterate", True), ("judge", True)])
def test_an_interrupted_command_says_how_to_go_on_if_it_can(
    command: str, keeps: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> None:
        raise main.Interrupted

    monkeypatch.setattr(main, "app", interrupt)
    monkeypatch.setattr(main.signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["icr", command, "runs/a"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    said = capsys.readouterr().err
    assert ended.value.code == 130
    assert said == "interrupted" + f"; finished work is kept. To resume:\n  icr {command} runs/a" * keeps + "\n"
