"""The recipes with the data that `icr data get` brings, and without them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from icr.base.errors import ConfigError
from icr.config.load import load_config
from icr.config.schema import CONFIGS, Config
from icr.rounds.preflight import check_batch, load_checked
from prompts.fetch import fetch
from prompts.public_sets import SETS
from tests.helpers.public_repositories import Public

RECIPES = sorted(p.stem for p in CONFIGS.glob("*.yaml"))
PAPER = [name for name in RECIPES if name.startswith("llama3-8b")]
CARDS = [name for name in RECIPES if name.endswith("24gb")]
GPT_4_TURBO = "data/x_alpacaeval/answers/gpt-4-turbo-2024-04-09"


def text(recipe: str) -> str:
    return (CONFIGS / f"{recipe}.yaml").read_text(encoding="utf-8")


def head(recipe: str) -> str:
    """The comment that a recipe starts with."""
    return "".join(re.match(r"(?:#.*\n)*", text(recipe)).group(0))  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def folder(public_repositories: Public, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a user has run `icr data get` for everything."""
    made = tmp_path_factory.mktemp("user")
    with pytest.MonkeyPatch.context() as patch:
        public_repositories.use(patch)
        for name in public_repositories.sets:
            fetch(name, made / "data", public_repositories.clones)
    (made / "data" / "english_pairs.jsonl").write_text('{"prompt": "?", "chosen": "a", "rejected": "b"}\n')
    return made


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_validates(recipe: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    config, inputs = load_checked(CONFIGS / f"{recipe}.yaml")
    assert inputs.prompts
    check_batch(config, config.train.nodes * (8 if config.train.processes == "auto" else config.train.processes))
    assert text(recipe).startswith("# ")  # says what it is for


@pytest.mark.parametrize(
    ("recipe", "lacks"),
    [
        ("llama3-8b", ["data/ultrafeedback", "data/x_alpacaeval", GPT_4_TURBO, "data/mt_bench"]),
        ("llama3-8b-kto", ["data/ultrafeedback", "data/x_alpacaeval", GPT_4_TURBO]),
        ("one-24gb-gpu", ["data/ultrafeedback", "data/english_pairs.jsonl", "data/x_alpacaeval"]),
        ("qwen3-8b-24gb", ["data/ultrafeedback", "data/x_alpacaeval"]),
    ],
)
def test_what_a_recipe_lacks_is_listed(
    recipe: str, lacks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    with pytest.raises(ConfigError) as caught:
        load_checked(CONFIGS / f"{recipe}.yaml")
    found = [f"{problem.what} {problem.where}" for problem in caught.value.problems]
    assert len(found) == len(lacks)
    sets = [name for name in SETS if any(f"data/{name}" in path for path in lacks)]
    ways = {problem.do for problem in caught.value.problems if "english_pairs" not in problem.what}
    assert ways == {f"get it: icr data get {' '.join(sets)}"}
    for path in lacks:
        assert any(re.search(rf"{re.escape(path)}\b(?!/)", problem) for problem in found), (path, found)
    # the prompts' folder is never looked for on a hub, where anybody may use its name
    assert not any("data set" in problem and "cannot be loaded" in problem for problem in found)


@pytest.mark.parametrize("recipe", PAPER)
def test_the_papers_runs_compare_with_the_papers_baseline(recipe: str) -> None:
    config = load_config(CONFIGS / f"{recipe}.yaml")
    assert config.judge.baseline.endswith(GPT_4_TURBO)
    assert "paper's" in head(recipe) or "not known to us" in head(recipe)
    assert "icr data get ultrafeedback x_alpacaeval" in head(recipe)
    assert recipe in (CONFIGS.parent / "docs" / "paper.md").read_text(encoding="utf-8")


def test_the_main_run_measures_what_its_tables_need() -> None:
    judge = load_config(CONFIGS / "llama3-8b.yaml").judge
    assert judge.benchmarks == ["xalpaca", "mtbench", "accuracy", "nlp"]
    assert judge.mtbench is not None and judge.mtbench.references == "judge"


def test_the_main_run_without_a_judge_as_the_readme_has_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    overrides = ["judge.kind=none", "judge.benchmarks=[nlp]"]
    written = "--set judge.kind=none --set 'judge.benchmarks=[nlp]'"
    assert written in (CONFIGS.parent / "README.md").read_text(encoding="utf-8")
    config, inputs = load_checked(CONFIGS / "llama3-8b.yaml", overrides)
    assert config.judge.active and not inputs.heldout


@pytest.mark.parametrize("recipe", CARDS)
def test_recipes_for_a_card_are_of_that_size(recipe: str) -> None:
    config: Config = load_config(CONFIGS / f"{recipe}.yaml")
    assert config.train.lora and config.train.deepspeed == "none" and config.train.micro_batch_size == 1
    words = " ".join(head(recipe).replace("#", " ").split())
    assert "Not run on such a card yet. Not checked, because" in words
    weights = float(re.search(r"([\d.]+) GB of bf16", words).group(1))  # type: ignore[union-attr]
    assert weights < 24 * config.sampling.gpu_memory - 2  # GB: the sampling engine needs room for its cache
    if 2 * weights > 24:
        assert config.reward.flip_check == 0  # the fp32 forward does not fit


def test_the_thinking_model_answers_without_reasoning() -> None:
    assert "enable_thinking: false" in text("qwen3-8b-24gb")


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_recipe_needs_a_hosted_model(recipe: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge is open, served on this machine without a key, and named with its revision."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    judge = load_checked(CONFIGS / f"{recipe}.yaml")[0].judge
    if judge.kind != "openai":
        return
    assert judge.base_url == "http://localhost:8000/v1" and judge.model is not None
    name, _, revision = judge.model.partition("@")
    page = (CONFIGS.parent / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert f"vllm serve Qwen/{name} --revision {revision}" in page and f"--served-model-name {judge.model}" in page


def test_a_hosted_judge_whose_end_is_known_is_a_note(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    hosted = ["judge.model=gpt-4o", "judge.base_url=https://api.openai.com/v1"]
    _, inputs = load_checked(CONFIGS / "llama3-8b.yaml", hosted)
    assert [note for note in inputs.notes if "gpt-4o" in note and "2027-01-14" in note]
    (folder / "ends.yaml").write_text("gpt-4o: null\n")
    _, inputs = load_checked(CONFIGS / "llama3-8b.yaml", [*hosted, "judge.ends=ends.yaml"])
    assert not [note for note in inputs.notes if "gpt-4o" in note]


def test_public_data_is_looked_for_where_the_config_names_it(
    tiny_config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_checked(tiny_config(tmp_path), ["prompts.path=my sets/ultrafeedback"])
    assert [problem.do for problem in caught.value.problems] == ["get it: icr data get ultrafeedback --out 'my sets'"]
