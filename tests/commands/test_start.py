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
from icr.config.load import load_config
from icr.config.schema import CONFIGS
from icr.engines.precision import has_bf16

RECIPES = sorted(CONFIGS.glob("*.yaml"))
SCHEMA = json.loads((CONFIGS / "icr.schema.json").read_text(encoding="utf-8"))
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


def test_recipes_are_listed_with_a_whole_sentence() -> None:
    found = json.loads(run(app, ["recipes", "--json"]).stdout)
    assert found.keys() == {path.stem for path in RECIPES}
    assert found["llama3-8b-kto"] == "KTO instead of DPO, from the SFT-KTO policy."
    assert not [text for text in found.values() if text.endswith("Eq.") or "yaml-language-server" in text]


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


@pytest.mark.parametrize("recipe", ["quickstart", "llama3-8b-kto"])
def test_init_copies_a_recipe(recipe: str, tmp_path: Path) -> None:
    out = tmp_path / "mine.yaml"
    assert run(app, ["init", recipe, "-o", str(out)]).exit_code == 0
    copy, original = load_config(out), load_config(CONFIGS / f"{recipe}.yaml")
    assert copy.train == original.train and copy.sampling == original.sampling
    if recipe == "quickstart":  # its data is in the package
        assert copy.prompts.path == original.prompts.path and copy.alignment == original.alignment


def test_the_schema_is_that_of_the_config() -> None:
    from docs.make_schema import render

    assert (CONFIGS / "icr.schema.json").read_text(encoding="utf-8") == render(), "run: python -m docs.make_schema"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_editors_check_recipes(recipe: Path) -> None:
    text = recipe.read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=icr.schema.json\n")
    jsonschema.validate(yaml.safe_load(text), SCHEMA)
    wrong = {**yaml.safe_load(text), "objektive": "dpo"}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, SCHEMA)
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
