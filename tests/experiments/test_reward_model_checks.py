"""What `icr rm train` refuses or leaves out: of configs, bases and rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from icr.base.errors import ConfigError, UserError
from icr.config.load import load_section
from icr.config.reward_model import RECIPES, RewardModelConfig
from icr.config.schema import Train
from icr.experiments.reward_inputs import check_base, check_inputs, plain_train
from icr.experiments.reward_model import refuse_equal, train_reward_model
from icr.experiments.reward_rows import texts, write_data
from icr.work.machine import Machine
from loops.checks import check_train
from prompts.preferences.forms import Options
from prompts.preferences.make import load_data, make_data
from tests.helpers.inline import run_inline, silent
from tests.helpers.reward_models import make_decoder, make_encoder, make_folder, pair_rows, rating_rows, write_config
from tests.helpers.tiny_models import make_tiny_model

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base and data."""
    root = tmp_path_factory.mktemp("made")
    return {"decoder": make_decoder(root / "decoder"), "pairs": make_folder(root / "pairs", pair_rows())}


@pytest.fixture
def inline() -> Iterator[list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        yield run_inline(patch)


def train(config: Path) -> dict[str, Any]:
    return train_reward_model(load_section(RewardModelConfig, config), silent())


@pytest.mark.parametrize(
    "recipe",
    [r for r in sorted(RECIPES.glob("*.yaml")) if not r.stem.endswith(("-rl", "-sft"))],
    ids=lambda path: path.stem,
)
def test_recipes_are_trainings(recipe: Path) -> None:
    """What `loops` gets of them, through the file that the training reads."""
    config = load_section(RewardModelConfig, recipe)
    passed = plain_train(config)
    check_train(passed)
    assert Train.model_validate_json(passed.model_dump_json()) == passed
    assert passed.learning_rate == config.train.learning_rate and passed.warmup_steps == config.train.warmup_steps
    assert recipe.read_text().startswith("# ")


@pytest.mark.parametrize(
    ("changes", "whats"),
    [
        ({"run": None}, ["no output folder is named"]),
        ({"base": "x.gguf"}, ["a .gguf file cannot be trained as a reward model"]),
        ({"data": {"languages": ["de", "fr"]}}, ["the data has no training rows in de", "no training rows in fr"]),
        ({"loss": "pointwise"}, ["the data has pairs, which the pointwise loss cannot use"]),
        ({"data": {"path": "nowhere"}}, ["nowhere not found"]),
        ({"data": {"path": "."}}, ["not a folder of preference data"]),
        ({"chat_template": "no.jinja"}, ["file "]),
        ({"train": {"beta": 0.5}}, ["beta has no meaning for a reward model"]),
        ({"train": {"optimizer": "adafactor", "deepspeed": "zero2"}}, ["Adafactor does not work with DeepSpeed"]),
        ({"train": {"batch_size": 8, "processes": 3}}, ["cannot be split into micro-batches of 4 on 3 processes"]),
        ({"train": {"nodes": 2}}, ["the command that starts the training on 2 nodes is missing"]),
        ({"max_tokens": 0, "margn": True}, ["`max_tokens`", "unknown key `margn`"]),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_trained(made: dict[str, Path], tmp_path: Path, changes: Any, whats: list[str]) -> None:
    config = write_config(tmp_path, made["decoder"], made["pairs"], **changes)
    with pytest.raises((ConfigError, UserError)) as raised:
        train(config)
    text = str(raised.value)
    for what in whats:
        assert what in text, text


def test_languages_that_cannot_be_trained_or_validated(made: dict[str, Path], tmp_path: Path) -> None:
    """A language is in the training alone, all its validation rows are of one label, or all its training rows."""
    rows = rating_rows()
    train = [row for row in rows if row["lang"] == "en" or row["label"] == 1]
    held = [{**row, "id": f"h{n}", "group": f"h{n}"} for n, row in enumerate(rows) if row["lang"] == "es"]

    def refused(name: str, train: list[dict[str, Any]], held: list[dict[str, Any]]) -> list[str]:
        for part, of in (("train", train), ("held", held)):
            (tmp_path / f"{name}-{part}.jsonl").write_text("\n".join(map(json.dumps, of)), encoding="utf-8")
        sources = [str(tmp_path / f"{name}-{part}.jsonl") for part in ("train", "held")]
        make_data(sources[:1], tmp_path / name, Options(), given=sources[1:])
        config = load_section(RewardModelConfig, write_config(tmp_path, made["decoder"], tmp_path / name))
        with pytest.raises(ConfigError) as raised:
            check_inputs(config)
        return [problem.what for problem in raised.value.problems]

    assert refused("one", train, held) == [
        "the data has no validation rows in en",
        "all training rows in es have the label 1",
    ]
    bad = [row for row in held if row["label"] == 0]
    assert refused("two", [row for row in rows if row["lang"] == "es"], bad) == [
        "all validation rows in es have the label 0"
    ]


def test_bases_that_cannot_be_trained(made: dict[str, Path], tmp_path: Path) -> None:
    def fails(base: Path, what: str, **changes: Any) -> None:
        with pytest.raises((ConfigError, UserError)) as raised:
            train(write_config(tmp_path / "c", base, made["pairs"], **changes))
        assert what in str(raised.value), str(raised.value)

    base = make_tiny_model(tmp_path / "base")
    template = tmp_path / "drops.jinja"
    template.write_text(
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
    )
    fails(base, "the chat template drops the answer", chat_template=str(template))
    template.write_text("{% for m in messages %}{{ m.content[:99] }}<|im_end|>{% endfor %}")
    fails(base, "the chat template drops a part of a long answer", chat_template=str(template))
    template.write_text("{% for m in messages %}{{ m.content }")
    fails(base, f"not valid Jinja: unexpected '}}'\n  where: chat_template: {template}", chat_template=str(template))
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    fails(base, "the chat template does not end an answer", chat_template=str(template))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"is_encoder_decoder": True, "model_type": "mt5"}))
    fails(base, "mt5 is an encoder–decoder model")
    (base / "config.json").write_text(json.dumps({"model_type": "vit", "architectures": ["ViTModel"]}))
    fails(base, "models of the type vit are not sequence classifiers")
    plain = make_tiny_model(tmp_path / "plain")
    (plain / "chat_template.jinja").unlink()
    fails(plain, "the base has no chat template")
    two = tmp_path / "two"
    model = AutoModelForSequenceClassification.from_pretrained(made["decoder"], num_labels=2)
    model.save_pretrained(two)
    AutoTokenizer.from_pretrained(made["decoder"]).save_pretrained(two)
    fails(two, "a classifier with 2 logits")
    bare = make_encoder(tmp_path / "bare")
    weights = load_file(bare / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith("pooler.")}
    save_file(kept, bare / "model.safetensors", metadata={"format": "pt"})
    fails(bare, "LoRA would leave these weights random", train={"lora": {"rank": 2}})


def test_responses_that_the_base_reads_alike_are_left_out(
    made: dict[str, Path], tmp_path: Path, inline: list[str]
) -> None:
    """Here the template makes all letters small. A base that sees no difference in a whole language is refused."""
    template = tmp_path / "small.jinja"
    template.write_text("{% for m in messages %}{{ m.content | lower }}<|im_end|>{% endfor %}")
    rows = pair_rows()
    for row in [row for row in rows if int(row["id"][1:]) % 3 == 0]:
        row["rejected"] = row["chosen"].upper()

    def write(rows: list[dict[str, Any]], name: str) -> tuple[dict[str, Any], int]:
        file = write_config(tmp_path, made["decoder"], make_folder(tmp_path / name, rows), chat_template=str(template))
        config = load_section(RewardModelConfig, file)
        inputs = check_inputs(config)
        read_as = check_base(made["decoder"], config, inputs.loss)
        alike = sum(row["chosen"].lower() == row["rejected"].lower() for row in [*inputs.train, *inputs.validation])  # type: ignore[typeddict-item]
        return write_data(tmp_path, config, inputs, made["decoder"], read_as, Machine(tmp_path, silent())), alike

    left_out, alike = write(rows, "some")
    assert left_out["too_long"] == {} and set(left_out["read_alike"]) == {"train", "validation"}
    assert sum(sum(of.values()) for of in left_out["read_alike"].values()) == alike == 16
    spanish = [{**row, "rejected": row["chosen"].upper()} if row["lang"] == "es" else row for row in rows]
    with pytest.raises(UserError, match="both responses of every training pair in es as the same tokens"):
        write(spanish, "all")


def test_a_language_in_which_all_scores_are_equal_is_refused(made: dict[str, Path]) -> None:
    rows = load_data(made["pairs"], "x").validation
    scores: dict[tuple[str, str], float | None] = {text: float(n) for n, row in enumerate(rows) for text in texts(row)}
    refuse_equal(scores, rows, Path("model"))
    spanish = {text: 0.5 for row in rows if row["lang"] == "es" for text in texts(row)}
    with pytest.raises(UserError, match="gives every response in es the same score"):
        refuse_equal({**scores, **spanish}, rows, Path("model"))
