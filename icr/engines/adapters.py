"""LoRA adapters as models: merged into their base, once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

from icr.base.content import ADAPTER as CONFIG
from icr.base.content import MODEL_FILES, find_base, hash_folder, hash_value
from icr.base.errors import UserError
from icr.base.files import read_object
from icr.engines.weights import INDEX, SINGLE, read_header

WEIGHTS = "adapter_model.safetensors"
TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json")
"""One of these makes a tokenizer; an adapter has its own where its training changed the base's."""


def is_adapter(folder: Path) -> bool:
    """Whether a folder has an adapter and no weights of a whole model; trainers may leave a config.json beside it."""
    return (folder / CONFIG).is_file() and not (folder / SINGLE).is_file() and not (folder / INDEX).is_file()


def check_adapter(folder: Path, where: str, find: Callable[[str], str]) -> str:
    """Check an adapter by its config and the header of its weights, and find its base.

    Args:
        find: the base's name → where it is; raises UserError if it is not found.

    Returns:
        What `find` gives.

    Raises:
        UserError: it is not a LoRA adapter of a language model, its weights are missing or are not an adapter's, or its
            base is not found; with the command that merges it, where it can be merged elsewhere.
    """
    config = _read_config(folder, where)
    base = str(config.get("base_model_name_or_path") or "")
    kind = str(config.get("peft_type"))
    what = f"this is a LoRA adapter of {base or 'a base model that it does not name'}"
    if kind != "LORA" or not base:
        problem = what if kind == "LORA" else f"this is an adapter of the type {kind}, and only LoRA can be merged"
        raise UserError(problem, where=f"{where}: {folder}", do=_merge_elsewhere(folder))
    if not (folder / WEIGHTS).is_file():
        raise UserError(
            f"{what}, without its weights: {WEIGHTS} not found",
            where=f"{where}: {folder}",
            do="save it as safetensors (icr does not load pickled weights), or copy the missing file",
        )
    tensors = read_header(folder / WEIGHTS, where)
    if not any(".lora_" in name for name in tensors):
        raise UserError(
            f"{what}, but {WEIGHTS} has no LoRA weights (its first tensor: {min(tensors, default='none')})",
            where=f"{where}: {folder}",
            do=f"save the adapter again with peft's save_pretrained, or {_merge_elsewhere(folder)}",
        )
    try:
        return find(find_base(folder) or base)
    except UserError as error:
        problem = f"{what}, and its base cannot be used: {error.what}"
        do = f"fix base_model_name_or_path in {CONFIG}, or {_merge_elsewhere(folder)}"
        raise UserError(problem, where=f"{where}: {folder}", do=do) from error


def _merge_elsewhere(folder: Path) -> str:
    merged = f"{folder.name}-merged"
    return (
        'merge it first: python -c "from peft import AutoPeftModelForCausalLM as M; '
        f"M.from_pretrained('{folder}').merge_and_unload().save_pretrained('{merged}')\", "
        f"then copy the tokenizer's files to {merged}"
    )


def _read_config(folder: Path, where: str) -> dict[str, object]:
    try:
        config = read_object(folder / CONFIG)
    except ValueError as error:
        what = f"{CONFIG} cannot be read: {error}"
        raise UserError(what, where=f"{where}: {folder}", do="save the adapter again") from error
    return config


def name_adapter(folder: Path, base: Path) -> str:
    """A name for the merged model that says what it is made from."""
    key = hash_value([hash_folder(folder, MODEL_FILES), hash_folder(base, MODEL_FILES)])
    return f"{folder.name}-merged-{key[:16]}"


def merge_adapter(folder: Path, base: Path, made: Path) -> None:
    """Write base and adapter as one model to `made`: added in fp32, saved in the base's dtype.

    Raises:
        UserError: the adapter does not fit its base.
    """
    import torch
    from peft import PeftModel, get_peft_model_state_dict
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    try:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, use_safetensors=True)
        rows = cast(torch.Tensor, model.get_input_embeddings().weight).shape[0]
        with_own = any((folder / name).is_file() for name in TOKENIZER)
        tokenizer = AutoTokenizer.from_pretrained(folder if with_own else base, trust_remote_code=False)
        if len(tokenizer) > rows:
            model.resize_token_embeddings(len(tokenizer))  # tokens that the adapter's training has added
        adapted = PeftModel.from_pretrained(model, str(folder))
        known, stored = (
            get_peft_model_state_dict(adapted, save_embedding_layers=False),
            read_header(folder / WEIGHTS, "the adapter"),
        )
        if strange := sorted({n for n in known if ".lora_" in n} ^ {n for n in stored if ".lora_" in n}):
            raise ValueError(f"{len(strange)} of its tensors have no counterpart, the first: {strange[0]}")
        merged = adapted.merge_and_unload(safe_merge=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        do = f"check base_model_name_or_path in {CONFIG}: it has to be the model that the adapter was trained on"
        raise UserError(f"the adapter does not fit its base {base}: {first}", where=str(folder), do=do) from error
    dtype = getattr(AutoConfig.from_pretrained(base, trust_remote_code=False), "dtype", None) or torch.float32
    merged.to(dtype).save_pretrained(made)
    tokenizer.save_pretrained(made)
