"""How many tokens a model was made for."""

from __future__ import annotations

import json
from pathlib import Path

from icr.base.errors import UserError

NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length", "n_ctx")
"""What architectures call it: most; GPT-2; MPT; BLOOM and ChatGLM; others."""
UNLIMITED = 10**9
"""Tokenizers without a limit say 10^30."""


def context_length(spec: str) -> int:
    """Positions that the model was made for: as its config says, else its architecture's default, else its tokenizer.

    Models with relative positions (BLOOM, MPT) have no table that ends there, but were trained up to this length.

    Args:
        spec: a folder or a hub id.

    Raises:
        UserError: none of them says it.
    """
    found = _read(Path(spec) / "config.json") or _by_architecture(spec) or _by_tokenizer(spec)
    if found is None:
        raise UserError(
            "neither the model's config nor its tokenizer says how long its context is",
            where=f"{spec}: config.json, max_position_embeddings; tokenizer_config.json, model_max_length",
            do="add max_position_embeddings to config.json: the number of tokens that the model was trained with",
        )
    return found


def _read(file: Path) -> int | None:
    if not file.is_file():
        return None
    config = json.loads(file.read_text(encoding="utf-8"))
    text = config.get("text_config")
    return _pick(text if isinstance(text, dict) else config)


def _by_architecture(spec: str) -> int | None:
    """A config.json leaves out what is its architecture's default."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(spec, trust_remote_code=False).get_text_config()
    return _pick({name: getattr(config, name, None) for name in NAMES})


def _by_tokenizer(spec: str) -> int | None:
    from icr.engines.models import read_tokenizer

    length = read_tokenizer(spec).model_max_length
    return int(length) if 0 < length < UNLIMITED else None


def _pick(settings: dict[str, object]) -> int | None:
    found = (settings.get(name) for name in NAMES)
    return next((value for value in found if isinstance(value, int) and value > 0), None)
