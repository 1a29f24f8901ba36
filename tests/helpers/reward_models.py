"""A tiny decoder, a tiny encoder and preference data in two languages, for trainings of reward models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import BertConfig, BertModel

from prompts.preferences.forms import Options
from prompts.preferences.make import make_data
from tests.helpers.tiny_models import make_tiny_model, make_tokenizer

ANIMALS = ("whale", "shark", "river", "story", "Wal", "Hai", "Kit", "ballena")


def make_encoder(folder: Path, context: int = 256) -> Path:
    """A bare BertModel without the prefix of its classes, and a tokenizer without chat template."""
    tokenizer = make_tokenizer(400)
    tokenizer.chat_template = None
    tokenizer.model_max_length = context
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    config = BertConfig(
        vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=context, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_decoder(folder: Path, **more: Any) -> Path:
    """A tiny Llama whose tokenizer pads with its end of turn."""
    make_tiny_model(folder, **more)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token": "<|im_end|>"}))
    return folder


def pair_rows(count: int = 24) -> list[dict[str, Any]]:
    """Answers that say yes are better, in any language and of any length."""
    rows = []
    for n in range(count):
        for lang, good, bad in (("en", "yes", "no"), ("es", "yes", "no")):
            word = ANIMALS[n % len(ANIMALS)]
            pad = " and so on" * (n % 3)
            rows.append(
                {
                    "id": f"p{n}", "lang": lang, "prompt": f"{lang}: is {word} {n} fine?", "group": f"g{n}",
                    "chosen": f"{good} {word}{pad if n % 2 else ''}", "rejected": f"{bad} {word}{'' if n % 2 else pad}",
                    "margin": float(n % 3),
                }
            )  # fmt: skip
    return rows


def rating_rows(count: int = 24) -> list[dict[str, Any]]:
    """The same as ratings."""
    return [
        {"id": f"{row['id']}{side}", "lang": row["lang"], "prompt": row["prompt"], "response": row[side],
         "label": int(side == "chosen"), "group": row["group"]}
        for row in pair_rows(count) for side in ("chosen", "rejected")
    ]  # fmt: skip


def make_folder(folder: Path, rows: list[dict[str, Any]], validation: float = 0.25) -> Path:
    """What `icr rm data` makes of rows."""
    source = folder.with_suffix(".jsonl")
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    make_data([str(source)], folder, Options(), validation=validation)
    return folder


def write_config(folder: Path, base: Path, data: Path, /, **changes: Any) -> Path:
    """A small config of `icr rm train`; keyword arguments replace keys or merge into sections."""
    config: dict[str, Any] = {
        "run": str(folder / "run"),
        "base": str(base),
        "data": {"path": str(data)},
        "train": {
            "learning_rate": 3e-3, "batch_size": 8, "micro_batch_size": 4, "epochs": 4, "precision": "fp32",
            "deepspeed": "none", "gradient_checkpointing": False, "validation_steps": 4,
        },
    }  # fmt: skip
    for key, value in changes.items():
        config[key] = {**config.get(key, {}), **value} if isinstance(value, dict) else value
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rm.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder / "rm.yaml"


def make_classifier(folder: Path, labels: int = 1, seed: int = 5) -> Path:
    """A decoder of one layer whose reward is nearly a mean over the tokens, each worth something else: a policy of a
    few tokens can learn it in seconds."""
    from transformers import AutoConfig, LlamaForSequenceClassification

    base = make_decoder(folder.with_name(f"{folder.name}-base"), seed=seed, layers=1)
    config = AutoConfig.from_pretrained(base, num_labels=labels, pad_token_id=0)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForSequenceClassification.from_pretrained(base, config=config, dtype=torch.float32)
        torch.nn.init.normal_(model.score.weight, std=2.0)
        (layer,) = model.model.layers
        torch.nn.init.zeros_(layer.self_attn.q_proj.weight)  # all tokens are attended to alike
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    model.save_pretrained(folder)
    make_tokenizer(512).save_pretrained(folder)
    return folder
