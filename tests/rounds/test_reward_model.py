"""R_n: classifiers whose logits do not depend on the batch, and models that are no reward model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from icr.base.errors import ConfigError, StageFailed, UserError
from icr.base.rundir import RunDir
from icr.config.load import dump_config, load_config
from icr.rounds.preflight import preflight
from icr.rounds.stages.score import score
from tests.conftest import TEXTS
from tests.helpers.independent import rows
from tests.helpers.kinds import ALPHA, reward_rows, use_translator
from tests.helpers.tiny_models import make_tiny_model, make_tokenizer

pytestmark = pytest.mark.timeout(600)

CLASSIFIER_TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}{{ eos_token }}{% endfor %}"
)


def make_classifier(folder: Path, pad: str, labels: int = 1, context: int = 512, template: bool = True) -> Path:
    """A tiny classifier whose tokenizer and template are not the policy's. `pad`: own, eos (the same token) or none."""
    tokenizer = make_tokenizer(400)
    tokenizer.chat_template = CLASSIFIER_TEMPLATE if template else None
    tokenizer.pad_token = {"own": "<|pad|>", "eos": tokenizer.eos_token, "none": None}[pad]
    tokenizer.model_max_length = context
    ids = {"own": 0, "eos": tokenizer.eos_token_id, "none": None}
    common = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    common |= {"num_attention_heads": 2, "max_position_embeddings": context, "initializer_range": 0.3}
    common |= {"num_labels": labels, "pad_token_id": ids[pad], "bos_token_id": None, "eos_token_id": 2}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        if template:
            model = LlamaForSequenceClassification(LlamaConfig(**common))
        else:
            tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
            model = BertForSequenceClassification(BertConfig(**common))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("pad", ["own", "eos", "none"])
@pytest.mark.parametrize("batch_tokens", [16384, 300])
def test_classifier(make_round: Any, tmp_path: Path, pad: str, batch_tokens: int) -> None:
    """Alone and in fp64 every response has the logit that it has in the batch: padding counts for nothing."""
    folder = make_classifier(tmp_path / "rm", pad)
    context = make_round("model", model=str(folder), batch_tokens=batch_tokens)
    counts = score(context)
    assert counts["model"] == "…/rm"
    model = AutoModelForSequenceClassification.from_pretrained(folder).double().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for lang in TEXTS:
        for response, reward in reward_rows(context, lang):
            prompt = TEXTS[lang].format(n=response["prompt_id"][1:])
            text = f"[user] {prompt}<|im_end|>[assistant] {response['response']}<|im_end|>"
            with torch.no_grad():
                alone = float(model(input_ids=torch.tensor([tokenizer(text)["input_ids"]])).logits[0, 0])
            assert reward["reward"] == pytest.approx(alone - ALPHA * len(response["response"]), abs=1e-4)
            assert reward["policy_logp"] is None and reward["dropped"] is None
    fits = json.loads(context.round.lengths.read_text())
    assert {fit["scale"] for fit in fits.values()} == {"classifier logit"}


def test_classifier_without_chat_template(make_round: Any, tmp_path: Path) -> None:
    """An encoder that reads a pair of texts."""
    folder = make_classifier(tmp_path / "rm", "own", template=False)
    context = make_round("model", model=str(folder), length_penalty="none")
    score(context)
    model = AutoModelForSequenceClassification.from_pretrained(folder).double().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for response, reward in reward_rows(context, "ru"):
        pair_of_texts = tokenizer(response["prompt"], response["response"], return_tensors="pt")
        with torch.no_grad():
            assert reward["reward"] == pytest.approx(float(model(**pair_of_texts).logits[0, 0]), abs=1e-4)


def test_a_text_too_long_for_the_classifier_is_counted(make_round: Any, tmp_path: Path) -> None:
    """The Spanish responses that are two sentences long do not fit; they are dropped, not cut."""
    tokenizer = make_tokenizer(400)
    folder = make_classifier(tmp_path / "all", "own")
    context = make_round("model", model=str(folder))

    def size(response: dict[str, Any]) -> int:
        text = f"[user] {response['prompt']}<|im_end|>[assistant] {response['response']}<|im_end|>"
        return len(tokenizer(text)["input_ids"])

    sizes = {lang: [size(r) for r in rows(context.round.responses / f"{lang}.parquet")] for lang in TEXTS}
    limit = max(s for lang in TEXTS for s in sizes[lang]) - 1
    over = {lang: sum(s > limit for s in sizes[lang]) for lang in TEXTS}
    context = make_round("model", "b", model=str(make_classifier(tmp_path / "short", "own", context=limit)))
    counts = score(context)
    assert {lang: c["dropped"]["too_long"] for lang, c in counts["languages"].items()} == over and sum(over.values())
    for lang in TEXTS:
        for response, reward in reward_rows(context, lang):
            assert (reward["dropped"] == "too_long") == (size(response) > limit) == (reward["reward"] is None)


def test_what_is_no_reward_model(make_round: Any, tmp_path: Path, tiny_pair: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError) as nameless:
        make_round("model")
    assert [p.what for p in nameless.value.problems] == ["the reward model is missing"]
    two = make_classifier(tmp_path / "two", "own", labels=2)
    with pytest.raises(ConfigError) as double:
        make_round("model", model=str(two))
    assert [p.what for p in double.value.problems] == ["the classifier has 2 logits, but a reward is one number"]
    # a causal model that says it has one label has no weights for its head
    headless = make_tiny_model(tmp_path / "causal")
    config = json.loads((headless / "config.json").read_text()) | {"id2label": {"0": "LABEL_0"}}
    (headless / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"1 tensors are missing: score\.weight"):
        score(make_round("model", model=str(headless)))


@pytest.mark.parametrize("kind", ["translate", "model"])
def test_bf16_is_checked_against_fp32(
    make_round: Any, tiny_pair: tuple[Path, Path], tmp_path: Path, monkeypatch: Any, kind: str
) -> None:
    use_translator(monkeypatch, tiny_pair)
    model = str(make_classifier(tmp_path / "rm", "own"))
    context = make_round(kind, precision="bf16", flip_check=9, model=model)
    counts = score(context)
    assert counts["precision"] == "bf16" and counts["flips"]["checked"] == 9
    again = score(make_round(kind, "b", precision="fp32", model=model))
    assert again["flips"] is None
    bf16, fp32 = (
        {(lang, r["prompt_id"], r["sample"]): r["reward"] for lang in TEXTS for _, r in reward_rows(c, lang)}
        for c in (context, make_done(tmp_path / "b", context))
    )
    differences = np.array([abs(bf16[key] - fp32[key]) for key in bf16])
    assert 0 < differences.max() < 1.0


def make_done(folder: Path, context: Any) -> Any:
    run = RunDir(folder / "run")
    return replace(context, run=run, round=run.round(1))


@pytest.mark.parametrize("kind", ["cross-lingual", "model"])
def test_a_check_in_fp32_that_has_no_room_is_left_out_and_counted(
    make_round: Any, tmp_path: Path, monkeypatch: Any, kind: str
) -> None:
    """8B in fp32 on 24 GB: what is checked is scored all the same."""
    monkeypatch.setattr("icr.engines.memory.has_room", lambda model, precision: precision == "bf16")
    model = str(make_classifier(tmp_path / "rm", "own"))
    counts = score(make_round(kind, precision="bf16", flip_check=9, model=model if kind == "model" else None))
    assert counts["flips"] == {"checked": 0, "flipped": 0, "left_out": 9}
    assert sum(c["dropped"]["too_long"] if kind == "model" else 0 for c in counts["languages"].values()) == 0


def test_a_check_that_fails_does_not_fail_the_round(make_round: Any, monkeypatch: Any) -> None:
    from icr.rounds.stages import kind as kinds

    whole, notes = kinds.measure, []

    def measure(context: Any, name: str, *rest: Any) -> Any:
        if name.endswith("-fp32"):
            raise StageFailed("a worker failed: killed by SIGKILL (out of memory?)\n  log: x")
        return whole(context, name, *rest)

    monkeypatch.setattr(kinds, "measure", measure)
    context = make_round("cross-lingual", precision="bf16", flip_check=9)
    monkeypatch.setattr(context.machine, "note", notes.append)
    assert score(context)["flips"] == {"checked": 0, "flipped": 0, "left_out": 9}
    assert len(notes) == 2 and "killed by SIGKILL (out of memory?)" in notes[0]  # of policy and reference


def test_one_classifier_a_language(make_round: Any, tmp_path: Path) -> None:
    """Each language has the rewards that its classifier gives alone; two that share one are scored in one pass."""
    first, second = make_classifier(tmp_path / "one", "own"), make_classifier(tmp_path / "two", "own")
    model = LlamaForSequenceClassification.from_pretrained(second)
    with torch.no_grad():
        model.score.weight.mul_(-1)
    model.save_pretrained(second)
    alone = {}
    for folder in (first, second):
        context = make_round("model", folder.name, model=str(folder))
        score(context)
        alone[folder] = {lang: [reward["reward"] for _, reward in reward_rows(context, lang)] for lang in TEXTS}
    asked = {"en": str(first), "es": str(second), "ru": str(first)}
    context = make_round("model", "each", model=asked)
    counts = score(context)
    assert counts["model"] == {"en": "…/one", "es": "…/two", "ru": "…/one"}
    for lang, folder in asked.items():
        rewards = [reward["reward"] for _, reward in reward_rows(context, lang)]
        assert rewards == pytest.approx(alone[Path(folder)][lang], abs=1e-5)
    assert alone[first]["es"] != pytest.approx(alone[second]["es"], abs=1e-3)
    with pytest.raises(ConfigError) as lacking:
        make_round("model", "lacks", model={"en": str(first)})
    assert [p.what for p in lacking.value.problems] == ["no reward model for es, ru"]


def test_a_reward_model_needs_no_english_and_no_second_model(
    tiny_config: Any, tiny_pair: tuple[Path, Path], tmp_path: Path
) -> None:
    """Neither is read; log-ratios need both."""
    policy = str(tiny_pair[0])
    changes = {
        "models": {"policy": policy, "reference": policy},
        "prompts": {"languages": ["es", "ru"]},
        "judge": {"kind": "none"},
    }
    reward = {"kind": "model", "model": str(make_classifier(tmp_path / "rm", "own"))}
    inputs = preflight(load_config(tiny_config(tmp_path / "a", **changes, reward=reward)))
    assert {prompt.lang for prompt in inputs.prompts} == {"es", "ru"} and not inputs.prompts[0].english
    changes["prompts"] = {"languages": ["ru", "en"]}
    order = [p.id for p in preflight(load_config(tiny_config(tmp_path / "c", **changes, reward=reward))).prompts]
    assert order == [f"p{n}" for n in range(1, 7) for _ in range(2)]
    changes["prompts"] = {"languages": ["es", "ru"]}
    with pytest.raises(ConfigError) as refused:
        preflight(load_config(tiny_config(tmp_path / "b", **changes, reward={"kind": "cross-lingual"})))
    whats = [problem.what for problem in refused.value.problems]
    assert "`en` is not among the languages" in whats
    assert "policy and reference are the same model, so every reward would be 0" in whats


def test_paths_of_classifiers_are_relative_to_the_config(tiny_config: Any, tmp_path: Path) -> None:
    make_classifier(tmp_path / "models" / "rm", "own")
    reward = {"kind": "model", "model": {"en": "../models/rm", "es": "org/name", "ru": "../models/rm"}}
    config = load_config(tiny_config(tmp_path / "a", reward=reward))
    found = str(tmp_path / "models" / "rm")
    assert config.reward.model == {"en": found, "es": "org/name", "ru": found}
    assert "en: ./models/rm" in dump_config(config, tmp_path)
