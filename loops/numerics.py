"""How a training computes its log-probs, which its reference has to be scored by, too. Imports no torch."""

from __future__ import annotations

from icr.config.schema import Train
from icr.engines.precision import Numerics


def training_numerics(train: Train) -> Numerics:
    """fp32; bf16; or autocast, without DeepSpeed and LoRA.

    bf16 under DeepSpeed: weights in bf16, beside which it keeps a master copy in fp32. bf16 without it: weights in fp32
    and products in bf16, because steps of 5e-7 vanish when they are added to bf16 weights. Frozen weights (LoRA) take
    no steps, and are in bf16 in any case.
    """
    if train.precision == "bf16" and train.deepspeed == "none" and train.lora is None:
        return "autocast"
    return "bf16" if train.precision == "bf16" else "fp32"
