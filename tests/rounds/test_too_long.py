"""Prompts, conditions and pairs that are longer than the model's context: skipped and counted, all at once."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import GPT2Config, GPT2LMHeadModel

from icr.base.conversation import load_conversation
from icr.base.errors import UserError
from icr.base.rundir import RunDir
from icr.engines.models import load_tokenizer
from icr.engines.templates import prompt_token_ids
from icr.rewards import conditioning_prompt
from icr.rounds.controller import Controller
from icr.rounds.preflight import load_checked
from tests.conftest import Config
from tests.helpers.independent import PREFIX, Model, rows
from tests.helpers.inline import run_inline
from tests.helpers.tiny_models import make_tiny_model, make_tokenizer

CONTEXT = 128
TEXTS = {"en": "Name three animals that live in the sea, please, and {n} rivers in the mountains.", "es": "{n} ríos."}


@pytest.fixture(autouse=True)
def inline() -> Iterator[list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        yield run_inline(patch)


def make_gpt(folder: Path, seed: int) -> Path:
    """Learned positions: beyond them there is nothing. Nearly uniform, so that some responses end and most do not."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=512, n_embd=32, n_layer=1, n_head=2, n_positions=CONTEXT, initializer_range=0.1, bos_token_id=2,
        eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def iterate(path: Path, *stages: str) -> tuple[RunDir, str]:
    config, inputs = load_checked(path)
    assert config.run is not None
    said = io.StringIO()
    controller = Controller(RunDir(Path(config.run)), config, inputs, Console(file=said, width=200))
    try:
        for stage in stages:
            controller.stage(1, stage)  # type: ignore[arg-type]
        if not stages:
            controller.iterate()
    finally:
        controller.close()
    return controller.run, said.getvalue()


def write_prompts(folder: Path, long: dict[str, int]) -> Path:
    folder.mkdir()
    for lang, text in TEXTS.items():
        lines = [{"id": f"p{n}", "instruction": text.format(n=n)} for n in range(2)]
        if lang in long:
            lines.append({"id": "long", "instruction": "river story " * long[lang]})
        (folder / f"{lang}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def settings(tmp_path: Path, long: dict[str, int], n: int = 16, max_tokens: int = 400) -> dict[str, Any]:
    return {
        "rounds": 1,
        "prompts": {"path": str(write_prompts(tmp_path / "prompts", long)), "languages": ["en", "es"]},
        "sampling": {"n": n, "max_tokens": max_tokens, "temperature": 1.0, "shard_size": 512},
        "reward": {"length_penalty": "none"},
        "judge": {"kind": "none"},
    }


def test_longer_conditions_than_prompts(tiny_config: Config, tmp_path: Path) -> None:
    """x^es is short, P(es) + x^en is not; and one English prompt is too long for anything."""
    policy, reference = make_gpt(tmp_path / "policy", 1), make_gpt(tmp_path / "reference", 2)
    models = {"policy": str(policy), "reference": str(reference)}
    path = tiny_config(tmp_path, **settings(tmp_path, {"en": 100, "es": 1}), models=models)
    run, said = iterate(path)
    one = run.round(1)
    assert one.record.stages["sample"].counts["dropped_too_long"] == {"en": ["long"]}
    assert "1 prompt is too long for the model's context of 128 tokens and skipped: en long" in said
    assert {row["prompt_id"] for row in rows(one.responses / "en.parquet")} == {"p0", "p1"}
    tokenizer, ours, theirs = load_tokenizer(str(policy)), Model(policy), Model(reference)
    english = {f"p{n}": TEXTS["en"].format(n=n) for n in range(3)} | {"long": "river story " * 100}
    dropped = kept = 0
    for response, reward in zip(rows(one.responses / "es.parquet"), rows(one.rewards / "es.parquet"), strict=True):
        asked = english[response["prompt_id"]].strip()
        condition = conditioning_prompt("es", load_conversation(asked))
        if len(prompt_token_ids(tokenizer, condition)) + len(response["token_ids"]) > CONTEXT:
            assert (reward["reward"], reward["dropped"]) == (None, "too_long")
            dropped += 1
        else:
            difference = [m.logp(PREFIX.format("Spanish") + asked, response["token_ids"]) for m in (ours, theirs)]
            assert reward["reward"] == pytest.approx(0.1 * (difference[0] - difference[1]), abs=1e-4)
            kept += 1
    counts = one.record.stages["score"].counts["languages"]
    assert counts["es"]["dropped"]["too_long"] == dropped >= 16 and kept >= 2
    assert counts["en"]["dropped"]["too_long"] == 0
    assert one.record.stages["train"].counts["dropped_too_long"] == 0
    assert "long" not in {row["prompt_id"] for row in rows(one.pairs)}


def test_every_long_prompt_at_once(tiny_config: Config, tmp_path: Path) -> None:
    for name, seed in (("policy", 1), ("reference", 2)):
        make_tiny_model(tmp_path / name, context=CONTEXT, seed=seed)
    models = {"policy": str(tmp_path / "policy"), "reference": str(tmp_path / "reference")}
    path = tiny_config(tmp_path, **settings(tmp_path, {"en": 100, "es": 90}, n=2, max_tokens=4), models=models)
    _, said = iterate(path, "sample")
    assert "2 prompts are too long for the model's context of 128 tokens and skipped: en long, es long" in said


def test_a_language_of_long_prompts_alone(tiny_config: Config, tmp_path: Path) -> None:
    for name, seed in (("policy", 1), ("reference", 2)):
        make_tiny_model(tmp_path / name, context=CONTEXT, seed=seed)
    models = {"policy": str(tmp_path / "policy"), "reference": str(tmp_path / "reference")}
    path = tiny_config(tmp_path, **settings(tmp_path, {}, n=2, max_tokens=4), models=models)
    lines = [json.dumps({"id": f"p{n}", "instruction": "río " * 200}) for n in range(2)]
    (tmp_path / "prompts" / "es.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match="every prompt in es is longer than the model's context"):
        iterate(path, "sample")


def test_a_long_pair_of_the_alignment(tiny_config: Config, tmp_path: Path) -> None:
    """Its reference score is not asked for: a model with learned positions has none."""
    reference = make_gpt(tmp_path / "reference", 2)
    pairs = [{"prompt": f"Say {n}.", "chosen": f"It is {n}.", "rejected": "I will not"} for n in range(4)]
    pairs.append({"prompt": "Say 5.", "chosen": "river " * 200, "rejected": "I will not"})
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    path = tiny_config(
        tmp_path,
        **settings(tmp_path, {}),
        models={"policy": None, "reference": str(reference)},
        alignment={"pairs": str(tmp_path / "pairs.jsonl"), "batch_size": 4},
    )
    config, inputs = load_checked(path)
    controller = Controller(RunDir(tmp_path / "run"), config, inputs, Console(file=io.StringIO()))
    try:
        controller.stage(0, "align")
    finally:
        controller.close()
    counts = controller.run.round(0).record.stages["align"].counts
    assert (counts["pairs"], counts["dropped_too_long"]) == (4, 1)
