"""The language model inside a multimodal checkpoint, as a folder of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from icr.base.content import MODEL_FILES, hash_folder
from icr.base.errors import UserError
from icr.engines.weights import INDEX, Stored, read_headers

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

WRAPPERS = frozenset(("model", "language_model", "text_model"))
"""Parts of a tensor's name that say in which model the language model is, and nothing else."""
OF_OTHERS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
"""Files of the parts that read images and sound."""
COPIED = (".json", ".jinja", ".txt", ".model", ".tiktoken")
LICENCES = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY")


def has_other_parts(folder: Path) -> bool:
    """Whether a checkpoint has a language model beside parts that read images or sound."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return isinstance(config.get("text_config"), dict)


def name_language_part(folder: Path) -> str:
    """A name for the language part that says what it is taken from."""
    return f"{folder.name}-text-{hash_folder(folder, MODEL_FILES)[:16]}"


def find_language_part(folder: Path, where: str) -> tuple[PreTrainedConfig, dict[str, str]]:
    """Its config, and where its weights are: name in the language model → name in the checkpoint.

    Raises:
        UserError: transformers has no language model for the config, or the checkpoint's tensors are not its.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False).get_text_config()
    do = "name a text-only checkpoint"
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    except ValueError as error:
        what = f"transformers has no language model of the type {config.model_type} in this multimodal checkpoint"
        raise UserError(what, where=f"{where}: {folder}", do=do) from error
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    names = _match(wanted, read_headers(folder, where))
    tied = set(getattr(model, "all_tied_weights_keys", None) or ()) if config.tie_word_embeddings else set()
    if missing := sorted(set(wanted) - set(names) - tied):
        what = (
            f"the language part of this multimodal checkpoint cannot be extracted: {len(missing)} of its "
            f"{len(wanted)} tensors are not found under their names, the first: {missing[0]}"
        )
        raise UserError(what, where=f"{where}: {folder}", do=do)
    config.architectures = [type(model).__name__]
    return config, names


def _match(wanted: Mapping[str, tuple[int, ...]], stored: Mapping[str, Stored]) -> dict[str, str]:
    """Names that are the same without WRAPPERS, of tensors of one shape."""
    plain = {_without_wrappers(name): name for name in stored}
    found = {name: plain[key] for name in wanted if (key := _without_wrappers(name)) in plain}
    return {name: source for name, source in found.items() if stored[source].shape == wanted[name]}


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def extract_language_part(folder: Path, made: Path) -> None:
    """Write it to `made`: its config and weights, with the checkpoint's tokenizer, chat template and licence.

    Raises: as `find_language_part`.
    """
    from huggingface_hub import save_torch_state_dict
    from safetensors import safe_open

    config, names = find_language_part(folder, "the model")
    stored = read_headers(folder, "the model")
    tensors = {}
    for name, source in names.items():
        with safe_open(stored[source].file, "pt") as opened:
            tensors[name] = opened.get_tensor(source)
    for file in folder.iterdir():
        copied = file.suffix in COPIED or file.name.startswith(LICENCES)
        if file.is_file() and copied and file.name not in (*OF_OTHERS, INDEX):
            shutil.copyfile(file, made / file.name)
    config.save_pretrained(made)
    save_torch_state_dict(tensors, made)
