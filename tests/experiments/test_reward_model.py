"""`icr rm train` and `icr rm eval` from a file of pairs or ratings to a model that others load."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from eval.reward_models.benching import bench_models
from eval.reward_models.evaluate import evaluate_models
from eval.reward_models.rows import find_classifiers
from icr.base.conversation import wrap_text
from icr.base.errors import ConfigError, UserError
from icr.config.load import load_section
from icr.config.reward_model import RECIPES, RewardModelConfig
from icr.config.schema import Train
from icr.engines.classifier import Classifier, check_classifier
from icr.experiments.reward_inputs import check_base, check_inputs, plain_train
from icr.experiments.reward_model import refuse_equal, train_reward_model
from icr.experiments.reward_rows import texts, write_data
from icr.work.machine import Machine
from loops.callbacks import read_metrics
from loops.checks import check_train
from prompts.preferences.make import load_data
from tests.helpers.inline import run_inline, silent
from tests.helpers.reward_models import make_decoder, make_encoder, make_folder, pair_rows, rating_rows, write_config
from tests.helpers.tiny_models import make_tiny_model

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bases and data."""
    root = tmp_path_factory.mktemp("made")
    return {
        "decoder": make_decoder(root / "decoder"),
        "encoder": make_encoder(root / "encoder"),
        "pairs": make_folder(root / "pairs", pair_rows()),
        "ratings": make_folder(root / "ratings", rating_rows()),
    }


@pytest.fixture
def inline() -> Iterator[list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        yield run_inline(patch)


def train(config: Path, *overrides: str) -> dict[str, Any]:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    return train_reward_model(load_section(RewardModelConfig, config, overrides), silent())


@pytest.fixture(scope="module")
def trained(made: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A decoder trained on pairs, whose tokenizer pads with its end of turn."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        run_inline(patch)
        result = train(write_config(folder, made["decoder"], made["pairs"], margin=True, center=0.01))
    return folder / "run", result


def test_a_decoder_learns_what_is_better(trained: tuple[Path, dict[str, Any]]) -> None:
    run, result = trained
    assert set(result["languages"]) == {"en", "es"}
    for found in result["languages"].values():
        assert found["accuracy"] >= 90 and found["n"] == 6 and found["chance"] == 50 and "length" in found
    validations = read_metrics(run / "validation.jsonl")
    assert validations[-1]["loss"] < validations[0]["loss"]
    best = result["training"]["validation"]
    assert best["loss"] == min(row["loss"] for row in validations) and best["rows"] == 12
    assert {"rewards/margins", "rewards/accuracies"} <= read_metrics(run / "metrics.jsonl")[0].keys()
    gap = result["gap"]
    assert gap["validation"]["loss"] == best["loss"] and 0 <= gap["training"]["accuracy"] <= 1
    card = (run / "model" / "README.md").read_text()
    assert "| en | 6 |" in card and str(run) not in card and "Implicit" not in card
    assert not (run / "checkpoints").exists() and not (run / "tokens").exists()


def test_the_pad_token_is_not_the_end_of_turn(trained: tuple[Path, dict[str, Any]]) -> None:
    """transformers reads a decoder's reward at the last token that is not the pad token, whatever the mask says."""
    model_folder = trained[0] / "model"
    config = json.loads((model_folder / "config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    assert config["pad_token_id"] == tokenizer.pad_token_id == 0 != tokenizer.eos_token_id
    assert config["architectures"] == ["LlamaForSequenceClassification"] and config["problem_type"] == "regression"
    model, loaded = AutoModelForSequenceClassification.from_pretrained(model_folder, output_loading_info=True)
    assert not loaded["missing_keys"] and not loaded["unexpected_keys"]
    model = model.double().eval()
    classifier = Classifier(check_classifier(str(model_folder)), "fp32", 16384)
    talks = [(wrap_text("is whale 3 fine?"), answer) for answer in ("yes whale", "no", "yes, and so on and so on")]
    for (prompt, answer), score in zip(talks, classifier.logits(talks), strict=True):
        text = tokenizer.apply_chat_template([*prompt, {"role": "assistant", "content": answer}], tokenize=False)
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            hidden = model.model(input_ids=ids).last_hidden_state[0, -1]
        assert score == pytest.approx(float(hidden @ model.score.weight[0].detach()), abs=1e-4)


def test_an_encoder_learns_from_ratings(made: dict[str, Path], tmp_path: Path, inline: list[str]) -> None:
    """A bare BertModel: the head is new, its bias stays 0, and prompt and response are two segments."""
    settings = {"learning_rate": 1e-2, "epochs": 8, "scheduler": "constant"}
    config = write_config(tmp_path, made["encoder"], made["ratings"], data={"languages": ["en"]}, train=settings)
    result = train(config)
    assert result["loss"] == "pointwise" and set(result["languages"]) == {"en"}
    found = result["languages"]["en"]
    assert found["accuracy"] >= 75 and found["auc"] > 0.9 and found["majority"] == 50
    assert inline.count("train") == 1 and "read" in inline
    model, loaded = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "run" / "model", output_loading_info=True
    )
    assert not loaded["missing_keys"] and not loaded["unexpected_keys"]
    assert model.classifier.bias.tolist() == [0.0]
    rows = load_data(made["ratings"], "x").validation
    own = [row for row in rows if row["lang"] == "en"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    with torch.no_grad():
        logits = [float(model.eval()(**tokenizer(r["prompt"], r["response"], return_tensors="pt")).logits) for r in own]  # type: ignore[typeddict-item]
    right = np.mean([(logit > 0) == bool(row["label"]) for logit, row in zip(logits, own, strict=True)])  # type: ignore[typeddict-item]
    assert found["accuracy"] == pytest.approx(100 * right)


def test_the_same_command_again_does_nothing(
    trained: tuple[Path, dict[str, Any]], inline: list[str], made: dict[str, Path]
) -> None:
    run, result = trained
    weights = (run / "model" / "model.safetensors").stat().st_mtime_ns
    assert train(run.parent / "rm.yaml", "train.micro_batch_size=2") == result
    assert (run / "model" / "model.safetensors").stat().st_mtime_ns == weights and "read" not in inline
    with pytest.raises(UserError, match=r"train\.learning_rate: 0\.003 → 0\.5"):
        train(run.parent / "rm.yaml", "train.learning_rate=0.5")


def test_what_is_too_long_is_dropped_or_cut(made: dict[str, Path], tmp_path: Path, inline: list[str]) -> None:
    settings = {"epochs": 0.2, "validation_steps": None}
    config = write_config(tmp_path / "a", made["decoder"], made["pairs"], max_tokens=44, train=settings)
    dropped = train(config)
    long = dropped["training"]["too_long"]
    assert 0 < sum(long["train"].values()) < 36 and dropped["training"]["rows"] == 36 - sum(long["train"].values())
    config = write_config(
        tmp_path / "b", made["decoder"], made["pairs"], max_tokens=44, truncate="left", train=settings
    )
    kept = train(config)
    assert kept["training"]["rows"] == 36 and kept["training"]["too_long"] == {}
    with pytest.raises(UserError, match="no training row fits into 5 tokens"):
        train(write_config(tmp_path / "c", made["decoder"], made["pairs"], max_tokens=5, train=settings))


def test_languages_that_have_fewer_rows_are_repeated(made: dict[str, Path], tmp_path: Path, inline: list[str]) -> None:
    rows = [row for row in pair_rows() if row["lang"] == "en" or int(row["id"][1:]) % 3 == 0]
    data = make_folder(tmp_path / "data", rows)
    counts = {lang: sum(r["lang"] == lang for r in load_data(data, "x").train) for lang in ("en", "es")}
    settings = {"epochs": 0.2, "validation_steps": None}
    result = train(write_config(tmp_path / "a", made["decoder"], data, data={"mix": "even"}, train=settings))
    assert counts["es"] < counts["en"] and result["training"]["rows"] == 2 * counts["en"]


def test_patience_ends_a_training_early(made: dict[str, Path], tmp_path: Path, inline: list[str]) -> None:
    settings = {
        "learning_rate": 1e-6,
        "scheduler": "constant",
        "validation_steps": 1,
        "patience": 2,
        "weight_decay": 0.0,
    }
    settings |= {"learning_rate": 5.0, "epochs": 20}
    config = write_config(tmp_path, made["decoder"], made["pairs"], train=settings)
    train(config)
    losses = [row["loss"] for row in read_metrics(tmp_path / "run" / "validation.jsonl")]
    assert len(losses) < 90 and len(losses) - 1 - losses.index(min(losses)) == 2


def test_accuracy_of_several_models(
    trained: tuple[Path, dict[str, Any]], made: dict[str, Path], tmp_path: Path, inline: list[str]
) -> None:
    """The trained model beside one that is not: what the training said of it, and csv and json with the same rows."""
    other = tmp_path / "untrained"
    model = AutoModelForSequenceClassification.from_pretrained(trained[0] / "model")
    with torch.no_grad():
        model.score.weight.mul_(-1)
    model.save_pretrained(other)
    AutoTokenizer.from_pretrained(trained[0] / "model").save_pretrained(other)
    named = [str(trained[0] / "model"), str(other)]
    models = find_classifiers(named)
    found = evaluate_models(models, made["pairs"], "validation", None, tmp_path / "out", silent())
    assert list(found["models"]) == ["run", "untrained"] and found["documents"] and found["notes"] == []
    assert found["models"]["run"] == trained[1]["languages"]
    english = found["models"]["untrained"]["en"]
    assert english["accuracy"] == pytest.approx(100 - found["models"]["run"]["en"]["accuracy"])
    differences = found["differences"]["untrained"]["en"]
    assert differences["difference"] == pytest.approx(english["accuracy"] - found["models"]["run"]["en"]["accuracy"])
    lines = (tmp_path / "out" / "accuracy.csv").read_text().splitlines()
    assert len(lines) == 1 + 4 and lines[0].startswith("model,data,split,language,kind,n")
    before = inline.count("classify")
    evaluate_models(models, made["pairs"], "validation", None, tmp_path / "out", silent())
    assert inline.count("classify") == before  # what is scored is not scored again
    with pytest.raises(UserError, match="the data has no validation rows in de"):
        evaluate_models(models, made["pairs"], "validation", ["de"], tmp_path / "out", silent())
    with pytest.raises(UserError, match="two models are called run"):
        find_classifiers(named[:1] * 2)


def test_a_benchmark(trained: tuple[Path, dict[str, Any]], tmp_path: Path, inline: list[str]) -> None:
    rows = [
        {
            "id": n,
            "prompt": f"en: is Wal {n} fine?",
            "chosen": "yes Wal",
            "rejected": "no Wal",
            "subset": "alpacaeval-easy",
        }
        for n in range(8)
    ]
    file = tmp_path / "bench.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    found = bench_models(find_classifiers([str(trained[0] / "model")]), str(file), "en", tmp_path / "out", silent())
    assert (
        found["models"]["run"]["en"]["sections"] == {"Chat": 100.0} and found["longer"]["en"]["alpacaeval-easy"] == 100
    )
    scores = [json.loads(line) for line in (tmp_path / "out" / "scores-run.jsonl").read_text().splitlines()]
    assert [row["id"] for row in scores] == [str(n) for n in range(8)]
    assert all(row["scores_chosen"][0] > row["scores_rejected"][0] for row in scores)


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
        ({"data": {"languages": ["de"]}}, ["the data has no training rows in de", "the data has no validation rows"]),
        ({"loss": "pointwise"}, ["the data has pairs, which the pointwise loss cannot use"]),
        ({"data": {"path": "nowhere"}}, ["not a folder of preference data"]),
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
    for what in whats[:1]:
        assert what in text, text


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
