"""Which implementation of attention computes what a model's config says."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CAPS = ("attn_logit_softcapping", "attention_logit_cap")
"""Settings that cap attention scores before their softmax: c·tanh(score/c), as Gemma 2 does."""


def find_attention(config: PreTrainedConfig) -> str | None:
    """`eager` for a model that caps its attention scores, else None: transformers' own choice.

    PyTorch's scaled_dot_product_attention, which transformers chooses by itself, has no cap and leaves it out without a
    word; vLLM applies it. So the scorer would score another model than the one that answered.
    """
    text = config.get_text_config()
    return "eager" if any(getattr(text, name, None) for name in CAPS) else None


def choose_attention(spec: str) -> str | None:
    """`find_attention` of a model's folder or hub id. Raises OSError and ValueError as transformers does."""
    from transformers import AutoConfig

    return find_attention(AutoConfig.from_pretrained(spec, trust_remote_code=False))
