"""`icr rm train` and `icr rm eval` from a file of pairs or ratings to a model that others load."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from eval.reward_models.benching import bench_models
from eval.reward_models.evaluate import evaluate_models
from eval.reward_models.rows import find_classifiers
from icr.base.conversation import wrap_text
from icr.base.errors import UserError
from icr.config.load import load_section
from icr.config.reward_model import RewardModelConfig
from icr.engines.classifier import Classifier, check_classifier
from icr.experiments.reward_model import train_reward_model
from loops.callbacks import read_metrics
from prompts.preferences.make import load_data
from tests.helpers.inline import run_inline, silent
from tests.helpers.reward_models import make_decoder, make_encoder, make_folder, pair_rows, rating_rows, write_config

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
