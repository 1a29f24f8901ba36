from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from icr.base.errors import ConfigError, UserError
from icr.config.load import dump_config, load_config, load_section
from icr.config.reward_model import RECIPES, RewardModelConfig
from icr.config.rl import RLConfig
from icr.config.schema import CONFIGS, Config
from icr.config.sft import SftConfig
from icr.rounds.preflight import check_batch, load_checked, preflight
from loops.checks import check_dropout

MINIMAL = "models: {policy: a/b, reference: a/c}\nprompts: {path: p, languages: [en]}\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_all_problems_are_reported_at_once_with_line_and_nearest_key(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "models: {policy: a/b, reference: a/c}\n"
        "prompts:\n  path: nowhere\n  languages: [en, es]\n  limt: 3\n"
        "sampling: {n: 1, backend: magic}\n"
        "reward: {length_penalty: some}\n",
    )
    with pytest.raises(ConfigError) as caught:
        load_checked(path)
    text = str(caught.value)
    assert "unknown key `prompts.limt`" in text and "did you mean `prompts.limit`?" in text and f"{path}:5" in text
    assert "`sampling.n` is 1: a best and a worst need two responses" in text and f"{path}:6" in text
    assert "`sampling.backend`" in text and "'magic'" in text
    assert "`reward.length_penalty`" in text and f"{path}:7" in text
    # what the rest of the config names is looked at in the same go
    assert f"folder {tmp_path / 'nowhere'} not found" in text and "prompts.path" in text
    assert len(caught.value.problems) == 5


def test_missing_keys_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`models\.reference` is missing"):
        load_config(write(tmp_path, "models: {}\nprompts: {path: p, languages: [en]}\n"))


@pytest.mark.parametrize(
    ("text", "what"),
    [("a: [1", "not valid YAML"), ("- a", "not a mapping"), ("", "is missing")],
)
def test_what_is_no_config(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(UserError, match=what):
        load_config(write(tmp_path, text))


def test_paths_are_relative_to_the_file_and_overrides_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "p").mkdir()
    (tmp_path / "q").mkdir()
    path = write(tmp_path / "configs", MINIMAL.replace("path: p", "path: ../p"))
    assert load_config(path).prompts.path == str(tmp_path / "p")
    monkeypatch.chdir(tmp_path)
    assert load_config(path, ["prompts.path=q"]).prompts.path == str(tmp_path / "q")
    assert load_config(path).models.policy == "a/b"  # a hub id stays one


def test_changes_name_paths_as_overrides_do(
    tiny_config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the config of a run, which lies elsewhere, means the same files."""
    monkeypatch.chdir(tmp_path)
    changed = load_config(tiny_config(tmp_path / "c"), [], {"models.chat_template": "t.jinja"})
    assert changed.models.chat_template == str(tmp_path / "t.jinja")


def test_an_override_that_is_no_yaml_is_told(tiny_config: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not valid YAML"):
        load_config(tiny_config(tmp_path), ["reward.kind=["])


def test_overrides_are_typed(tmp_path: Path) -> None:
    config = load_config(
        write(tmp_path, MINIMAL), ["train.learning_rate=5e-6", "sampling.n=3", "reward.length_penalty=0.1"]
    )
    assert (config.train.learning_rate, config.sampling.n, config.reward.length_penalty) == (5e-6, 3, 0.1)
    with pytest.raises(UserError, match="`=` is missing"):
        load_config(write(tmp_path, MINIMAL), ["sampling.n"])


def test_the_defaults_are_the_papers() -> None:
    config = Config.model_validate(yaml.safe_load(MINIMAL))
    s, t, r = config.sampling, config.train, config.reward
    assert (s.n, s.temperature, s.top_p, s.max_tokens, s.seed) == (10, 0.9, 1.0, 2400, 42)
    assert (t.learning_rate, t.batch_size, t.epochs, t.beta, t.nll_weight) == (5e-7, 16, 1, 0.1, 1.0)
    assert (t.warmup_ratio, t.scheduler, t.deepspeed) == (0.03, "cosine", "zero2")
    # bf16 on a GPU, as in the paper; a processor without bf16 instructions would take a hundred times as long in it
    assert s.precision == r.precision == t.precision == "auto"
    assert (r.beta, r.kind, r.reference, r.length_penalty, r.length_unit) == (
        0.1,
        "cross-lingual",
        "initial",
        "fit",
        "characters",
    )


def test_a_resolved_config_loads_as_itself(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, MINIMAL), ["train.lora.rank=4"])
    again = load_config(write(tmp_path, dump_config(config)))
    assert again == config


@pytest.mark.parametrize(
    "recipe", sorted(set(CONFIGS.rglob("*.yaml")) - set((CONFIGS / "cluster").iterdir())), ids=lambda p: p.stem
)
def test_every_recipe_is_a_config(recipe: Path) -> None:
    kind = {"rl": RLConfig, "sft": SftConfig}.get(recipe.stem.rpartition("-")[2], RewardModelConfig)
    load_section(Config if recipe.parent != RECIPES else kind, recipe)


def test_the_quickstart_is_fine() -> None:
    inputs = preflight(load_config(CONFIGS / "quickstart.yaml"))
    assert {p.lang for p in inputs.prompts} == {"en", "es", "de", "fr"}
    assert inputs.alignment and inputs.policy is None


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"prompts": {"languages": ["es"]}}, "`en` is not among the languages"),
        ({"prompts": {"languages": ["en", "xx"]}}, "not an ISO 639-1 language code"),
        ({"prompts": {"languages": ["en", "de"]}}, "no prompts in de"),
        ({"models": {"policy": None}}, "the English-aligned policy is missing"),
        ({"models": {"policy": "./nowhere"}}, "nowhere not found"),
        ({"models": {"reference": "package:no_such_package/x.gguf"}}, "is not installed"),
        ({"objective": "nothing.here:Class"}, "cannot be imported"),
        ({"objective": "dop"}, "did you mean dpo"),
        ({"train": {"deepspeed": "zero9"}}, "DeepSpeed config zero9 not found"),
        ({"train": {"batch_size": 5, "processes": 2}}, "batch of 5"),
        ({"train": {"scheduler": "cosin"}}, "unknown scheduler cosin"),
        ({"train": {"scheduler": "greedy"}}, "needs a validation loss"),
        ({"train": {"optimizer": "sgd"}}, "takes adamw or adafactor"),
        ({"train": {"optimizer": "adafactor", "deepspeed": "zero2"}}, "does not work with DeepSpeed"),
        ({"train": {"report_to": "wandbb"}}, "tracker wandbb is unknown or not installed"),
        ({"train": {"warmup_ratio": 0.1, "warmup_steps": 3}}, "both warmup_ratio and warmup_steps"),
        ({"train": {"validation": 1.5}}, "a share below 1 or a whole number"),
        ({"sampling": {"temperature": 2.5}}, "`sampling.temperature` takes a number .* ≤ 2"),
        ({"judge": {"temperature": 3}}, "`judge.temperature` takes a number .* ≤ 2"),
        ({"judge": {"prompts": None}}, "the judge has no prompts"),
        ({"judge": {"baseline": "no-such-folder"}}, "folder .*no-such-folder not found"),
    ],
)
def test_bad_settings(tmp_path: Path, tiny_config: Callable[..., Path], changes: dict[str, object], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        load_checked(tiny_config(tmp_path, **changes))


def test_several_bad_settings_of_a_training_are_named_together(
    tmp_path: Path, tiny_config: Callable[..., Path]
) -> None:
    wrong = {"scheduler": "linaer", "optimizer": "adafactor", "deepspeed": "zero3", "report_to": "nobody"}
    with pytest.raises(ConfigError) as caught:
        load_checked(tiny_config(tmp_path, train=wrong))
    assert [problem.where.partition(":")[0] for problem in caught.value.problems] == [
        "train.optimizer", "train.scheduler", "train.report_to",
    ]  # fmt: skip
    assert "did you mean linear?" in caught.value.problems[1].do


def test_dropout_is_refused_where_there_is_none(tmp_path: Path, tiny_config: Callable[..., Path]) -> None:
    from transformers import MambaConfig

    MambaConfig(vocab_size=512).save_pretrained(tmp_path / "mamba")
    train = {"dropout": 0.1}
    load_checked(tiny_config(tmp_path / "llama", train=train))
    with pytest.raises(UserError, match="models of the type mamba have no dropout to set"):
        check_dropout(str(tmp_path / "mamba"), 0.1)
    check_dropout(str(tmp_path / "mamba"), 0.0)


def test_kto_needs_no_further_setting(tmp_path: Path, tiny_config: Callable[..., Path]) -> None:
    config, _ = load_checked(tiny_config(tmp_path, objective="kto", train={}))
    assert config.train.micro_batch_size == "auto"


def test_the_same_model_twice_is_refused(
    tmp_path: Path, tiny_config: Callable[..., Path], tiny_pair: tuple[Path, Path]
) -> None:
    same = {"models": {"policy": str(tiny_pair[1])}}
    with pytest.raises(ConfigError, match="policy and reference are the same model"):
        load_checked(tiny_config(tmp_path, **same))


def test_a_missing_weight_shard_is_named(
    tmp_path: Path, tiny_config: Callable[..., Path], tiny_pair: tuple[Path, Path]
) -> None:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(tiny_pair[0]).save_pretrained(tmp_path / "sharded", max_shard_size="100KB")
    shards = sorted((tmp_path / "sharded").glob("model-*.safetensors"))
    assert len(shards) > 1
    shards[1].unlink()
    with pytest.raises(ConfigError, match=rf"1 of {len(shards)} weight shards are missing in .*: {shards[1].name}"):
        load_checked(tiny_config(tmp_path, models={"policy": str(tmp_path / "sharded")}))


def test_another_vocabulary_is_refused(tmp_path: Path, tiny_pair: tuple[Path, Path]) -> None:
    from icr.engines.models import check_same_vocabulary
    from tests.helpers.tiny_models import make_tiny_model

    check_same_vocabulary(*map(str, tiny_pair))
    other = make_tiny_model(tmp_path / "other", vocab_size=400)
    with pytest.raises(UserError, match="different vocabularies"):
        check_same_vocabulary(str(tiny_pair[0]), str(other))


def test_the_documentation_lists_every_key() -> None:
    from docs.make_config import PAGES

    for name, page in PAGES.items():
        committed = Path(__file__).parents[2] / "docs" / name
        assert committed.read_text(encoding="utf-8") == page(), "run: python -m docs.make_config"


def test_batches_have_to_be_whole_micro_batches_on_every_process(tmp_path: Path) -> None:
    text = MINIMAL.replace("policy: a/b, ", "") + "alignment: {pairs: p, batch_size: 8}\n"
    config = load_config(write(tmp_path, text + "train: {batch_size: 10, micro_batch_size: 3}\nobjective: kto\n"))
    with pytest.raises(ConfigError) as caught:
        check_batch(config, 2)
    assert [problem.where for problem in caught.value.problems] == ["train.batch_size", "alignment.batch_size"]
    assert [problem.do for problem in caught.value.problems] == ["make it a multiple of 3", "make it a multiple of 6"]
