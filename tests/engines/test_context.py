"""How long a model's context is, by whatever its architecture calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import BloomConfig, GPT2Config, LlamaConfig

from icr.base.errors import UserError
from icr.engines.context import context_length
from tests.helpers.tiny_models import make_tokenizer


def test_names_of_architectures(tmp_path: Path) -> None:
    GPT2Config(n_positions=77).save_pretrained(tmp_path / "gpt2")
    LlamaConfig(max_position_embeddings=99).save_pretrained(tmp_path / "llama")
    assert context_length(str(tmp_path / "gpt2")) == 77
    assert context_length(str(tmp_path / "llama")) == 99


def test_multimodal(tmp_path: Path) -> None:
    nested = {"model_type": "gemma3", "text_config": {"max_position_embeddings": 55}, "max_position_embeddings": 1}
    (tmp_path / "config.json").write_text(json.dumps(nested))
    assert context_length(str(tmp_path)) == 55


def test_default_of_the_architecture(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3_text", "hidden_size": 32}))
    assert context_length(str(tmp_path)) == 131072


def test_bloom_by_its_config_or_its_tokenizer(tmp_path: Path) -> None:
    BloomConfig().save_pretrained(tmp_path)
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="neither the model's config nor its tokenizer says"):
        context_length(str(tmp_path))
    tokenizer.model_max_length = 512
    tokenizer.save_pretrained(tmp_path)
    assert context_length(str(tmp_path)) == 512
    BloomConfig(seq_length=2048).save_pretrained(tmp_path)
    assert context_length(str(tmp_path)) == 2048
