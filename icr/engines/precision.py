"""Which precision a machine computes well in: one rule for sampling, scoring and training."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Precision = Literal["fp32", "bf16"]
Numerics = Literal["fp32", "bf16", "autocast"]
"""How a forward pass computes: weights and products in one precision, or `autocast`: weights and the sums of the layers
in fp32, matrix products in bf16. On a text of 300 tokens the last two differ by as much as a nat."""

WITHOUT_BF16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")
"""Values of ONEDNN_MAX_CPU_ISA under which oneDNN uses no bf16 instructions."""


def has_bf16() -> bool:
    """Whether this processor has instructions for multiplying bf16 matrices.

    Without them a bf16 product is about a hundred times slower than an fp32 one. `ONEDNN_MAX_CPU_ISA` can switch them
    off, as it does for torch and vLLM.
    """
    import torch

    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in WITHOUT_BF16:
        return False
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16") or found.get("bf16"))


def resolve_precision(asked: Literal["auto", "fp32", "bf16"], *, gpu: bool) -> Precision:
    """`auto`: bf16 on a GPU and on a processor with bf16 instructions, else fp32."""
    if asked != "auto":
        return asked
    return "bf16" if gpu or has_bf16() else "fp32"


def computing(numerics: Numerics, model: PreTrainedModel) -> AbstractContextManager[object]:
    """What a forward pass of a model has to run in; the model's weights are in `weights_of(numerics)`."""
    import torch

    return torch.autocast(model.device.type, torch.bfloat16) if numerics == "autocast" else nullcontext()


def weights_of(numerics: Numerics) -> Precision:
    """The precision of the weights."""
    return "bf16" if numerics == "bf16" else "fp32"


def computed_in(model: PreTrainedModel) -> torch.dtype:
    """The dtype that a forward pass of a model rounds to here and now."""
    import torch

    kind = model.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else model.dtype
