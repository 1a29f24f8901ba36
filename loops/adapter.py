"""LoRA's adapter after a training: merged into the model, and kept by itself."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import Module

from icr.base.errors import IcrError
from icr.base.files import atomic_folder
from icr.engines.adapters import WEIGHTS
from loops.export import saved_buffers
from loops.families import Family
from loops.objective import Objective

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel


def write_adapter(
    folder: Path, model: PeftModel, adapter: dict[str, Tensor], lora: LoraConfig, base: Path, place: Path
) -> None:
    """Write the adapter in peft's format; the folder appears whole.

    Args:
        model: as it was trained, for the names of what it adds.
        adapter: its tensors, named as in the model (`loops.export.trained_weights`).
        base: the model that it was trained on; the config names it by its path from the adapter, so that a run folder
            may be moved.
        place: where the folder will be in the end.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    tensors = get_peft_model_state_dict(model, state_dict=adapter, save_embedding_layers=False)
    lora.base_model_name_or_path = os.path.relpath(base, place)
    lora.inference_mode = True
    with atomic_folder(folder) as tmp:
        lora.save_pretrained(str(tmp))
        save_file({name: t.contiguous() for name, t in tensors.items()}, tmp / WEIGHTS, metadata={"format": "pt"})


def merged_weights(
    base: Path, lora: LoraConfig, adapter: Mapping[str, Tensor], family: Family[Objective] | None = None
) -> dict[str, Tensor]:
    """The weights of the model in `base` with a trained LoRA adapter added, on the CPU, added in fp32.

    Args:
        lora: the adapter's config.
        adapter: its tensors, named as in the PEFT model (`trained_weights`).
        family: says which kind of model it is; a language model without it.
    """
    import transformers
    from peft import get_peft_model

    loader = getattr(transformers, family.auto_class if family else "AutoModelForCausalLM")
    changes = family.config_changes() if family else {}
    with without_deepspeed():
        model = loader.from_pretrained(base, dtype=torch.float32, use_safetensors=True, **changes)
    merged = get_peft_model(model, lora)
    missing = merged.load_state_dict(dict(adapter), strict=False)
    if missing.unexpected_keys:
        raise IcrError(f"the adapter has tensors that the model does not know: {missing.unexpected_keys[:3]}")
    plain: Module = merged.merge_and_unload()
    found = {name: parameter.detach() for name, parameter in plain.named_parameters(remove_duplicate=False)}
    return found | saved_buffers(plain)


@contextmanager
def without_deepspeed() -> Iterator[None]:
    """Load a model whole: with ZeRO-3 it would be shared out, too, and wait for the other ranks."""
    from transformers.integrations import deepspeed

    active, deepspeed._hf_deepspeed_config_weak_ref = deepspeed._hf_deepspeed_config_weak_ref, None
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = active  # the training may go on
