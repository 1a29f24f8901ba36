"""The model that comes out of a training: the base model's files with new weights under exactly its keys."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import Module

from icr.base.errors import IcrError, UserError
from icr.base.files import atomic_folder
from icr.engines.weights import read_headers
from loops.card import write_model_card
from loops.families import Family
from loops.objective import Objective
from loops.spec import CardFacts

if TYPE_CHECKING:
    pass

COPIED = {".json", ".jinja", ".txt", ".model", ".tiktoken"}
NOT_COPIED = {"model.safetensors.index.json", "pytorch_model.bin.index.json", "trainer_state.json"}
LICENCES = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY")
SHARD_SIZE = "5GB"


def base_dtypes(folder: Path) -> dict[str, torch.dtype]:
    """Key → dtype of every tensor in a checkpoint, from the headers of its safetensors files."""
    return {key: stored.torch_dtype for key, stored in read_headers(folder, "the base model").items()}


def trained_weights(model: Module, keep: bool) -> dict[str, Tensor]:
    """The weights of `model` on the CPU, tied ones under each of their names; of a LoRA model the adapter's alone.

    Under DeepSpeed they come from the fp32 master copy, which is put together from the ranks' parts: this is a
    collective call, to be made on every rank. The dictionary is empty on ranks with `keep=False`.
    """
    adapter = hasattr(model, "peft_config")
    found: dict[str, Tensor] = {}
    by_parameter: dict[int, Tensor] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if adapter and not parameter.requires_grad:
            continue
        if id(parameter) not in by_parameter:
            full = _full(parameter)
            by_parameter[id(parameter)] = full.cpu() if keep else full.new_empty(0)
        if keep:
            found[name] = by_parameter[id(parameter)]
    if keep and not adapter:
        found.update({name: buffer.cpu() for name, buffer in saved_buffers(model).items()})
    return found


def saved_buffers(model: Module) -> dict[str, Tensor]:
    """What a checkpoint holds beside parameters, some of it integers or truth values."""
    names = set(model.state_dict())
    return {name: buffer.detach() for name, buffer in model.named_buffers() if name in names}


def _full(parameter: torch.nn.Parameter) -> Tensor:
    if not (hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping")):
        return parameter.detach()
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    full: Tensor | None = safe_get_full_fp32_param(parameter)
    if full is not None:
        return full.detach()
    with deepspeed.zero.GatheredParameters([parameter]):  # ZeRO-3 has no master copy of a frozen parameter
        return parameter.detach().clone()


def write_model(
    output: Path,
    base: Path,
    model: Module,
    weights: dict[str, Tensor],
    facts: CardFacts,
    chat_template: str | None = None,
    family: Family[Objective] | None = None,
    end: int | None = None,
) -> None:
    """Write the final model folder; it appears whole.

    Weights get the base checkpoint's keys and dtypes: a tied matrix that the base has once is saved once. Config,
    tokenizer, chat template and generation config are the base's files, not what the trainer made of them. What a
    family adds to the base or leaves out of it (a classifier's head) is added and left out here, and its changes are
    made to `config.json`.

    Args:
        model: a model of this architecture, for the names that differ between memory and disk.
        weights: `trained_weights` or `merged_weights`.
        facts: what the model card says.
        chat_template: replaces the base's.
        family: the kind of model that was trained; a language model like the base without it.
        end: the token that ends an answer; generation_config.json gets it if it has it not.

    Raises:
        IcrError: the weights do not have the keys of such a model.
    """
    from huggingface_hub import save_torch_state_dict

    named, dtypes = plan_export(base, model, weights, family)
    # a copy each, for tensors that share memory would be taken for one
    final = {key: named[key].to(dtype, copy=True).contiguous() for key, dtype in dtypes.items()}
    with atomic_folder(output) as tmp:
        for file in companion_files(base):
            shutil.copyfile(file, tmp / file.name)
        if chat_template is not None:
            (tmp / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
        if end is not None:
            _add_end(tmp, end)
        if family is not None and family.config_changes():
            _change_config(tmp / "config.json", {"architectures": [type(model).__name__], **family.config_changes()})
        if family is not None and family.tokenizer_changes():
            _change_tokenizer(tmp, family.tokenizer_changes())
        save_torch_state_dict(final, tmp, max_shard_size=SHARD_SIZE)
        write_model_card(tmp, facts)


def plan_export(
    base: Path, model: Module, weights: dict[str, Tensor], family: Family[Objective] | None = None
) -> tuple[dict[str, Tensor], dict[str, torch.dtype]]:
    """The weights under the base's names, and the dtype that each of those to be written gets.

    A tensor of the base that loading leaves out is left out here as well: old checkpoints have `rotary_emb.inv_freq` in
    every layer, or masks, which newer versions compute.

    Raises:
        IcrError: the weights do not have the keys of such a model.
    """
    from transformers.core_model_loading import revert_weight_conversion

    named: dict[str, Tensor] = revert_weight_conversion(model, weights)  # type: ignore[arg-type]
    dtypes = _final_dtypes(_with_prefix(base_dtypes(base), named, model), named, family)
    unused = _left_out(model, base, set(dtypes) - set(named))
    dtypes = {key: dtype for key, dtype in dtypes.items() if key not in unused}
    missing = sorted(set(dtypes) - set(named))
    tied = {key for key, tensor in named.items() if key not in dtypes and _is_alias(tensor, named, dtypes)}
    extra = sorted(set(named) - set(dtypes) - tied)
    if missing or extra:
        raise IcrError(f"the trained model's keys differ from those in {base}: missing {missing}, unexpected {extra}")
    return named, dtypes


def check_export(base: Path, model: Module, family: Family[Objective] | None = None) -> None:
    """Whether the model's weights will go under the base's names; to be asked before the training.

    Args:
        model: as it is trained, or without its weights; not with an adapter.

    Raises:
        UserError: they will not.
    """
    empty: dict[int, Tensor] = {}
    weights = {}
    for name, tensor in [*model.named_parameters(remove_duplicate=False), *saved_buffers(model).items()]:
        shape = getattr(tensor, "ds_shape", tensor.shape)  # ZeRO-3 shares out the weights
        weights[name] = empty.setdefault(id(tensor), torch.empty(shape, dtype=tensor.dtype, device="meta"))
    try:
        plan_export(base, model, weights, family)
    except IcrError as error:
        what = f"a model trained from this checkpoint could not be saved: {error}"
        raise UserError(what, where=str(base), do="save the checkpoint again with save_pretrained") from error


def _left_out(model: Module, base: Path, names: set[str]) -> set[str]:
    """Which of these tensors of a checkpoint are no weights: old buffers, and what the model's class leaves out."""
    info = SimpleNamespace(missing_keys=set(), unexpected_keys=set(names))
    model._adjust_missing_and_unexpected_keys(info)  # type: ignore[operator, union-attr]
    unexpected: set[str] = info.unexpected_keys
    stored = read_headers(base, "the base model")
    return {name for name in names if name not in unexpected or stored[name].is_old_buffer(name)}


def _final_dtypes(
    base: dict[str, torch.dtype], named: Mapping[str, Tensor], family: Family[Objective] | None
) -> dict[str, torch.dtype]:
    """Key → dtype of every tensor of the final model: the base's, without what the family does not use of it and with
    what it adds, which gets the dtype that most of the base has."""
    if family is None:
        return base
    kept = {key: dtype for key, dtype in base.items() if not key.startswith(family.unused_weights)}
    usual = Counter(base.values()).most_common(1)[0][0]
    return kept | {key: usual for key in named if key not in base and key.startswith(family.new_weights)}


def _with_prefix(base: dict[str, torch.dtype], named: Mapping[str, Tensor], model: Module) -> dict[str, torch.dtype]:
    """The base's tensors as a model of this class names them: a bare encoder has no `bert.` before its names."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    return {prefix + key if key not in named and prefix + key in named else key: dtype for key, dtype in base.items()}


def _change_tokenizer(folder: Path, changes: Mapping[str, object]) -> None:
    """In both files that may say what the special tokens are."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            _change_config(folder / name, changes)


def _change_config(file: Path, changes: Mapping[str, object]) -> None:
    config = {**json.loads(file.read_text(encoding="utf-8")), **changes}
    file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _add_end(folder: Path, end: int) -> None:
    """Programs that serve the model stop where generation_config.json says, else where config.json says."""
    configs = [folder / name for name in ("generation_config.json", "config.json") if (folder / name).is_file()]
    every: list[int | list[int] | None] = [
        json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") for file in configs
    ]
    found = next((ends for ends in every if ends is not None), [])
    known: list[int] = found if isinstance(found, list) else [found]
    if end not in known:
        file = folder / "generation_config.json"
        config = json.loads(file.read_text(encoding="utf-8")) if file in configs else {}
        config["eos_token_id"] = [end, *known]
        file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _is_alias(tensor: Tensor, named: Mapping[str, Tensor], kept: Iterable[str]) -> bool:
    """Whether a tensor that is not saved is in the memory of one that is."""
    return any(key in named and _place(named[key]) == _place(tensor) for key in kept)


def _place(tensor: Tensor) -> tuple[int, int]:
    """Where a tensor is, also one without memory."""
    return int(tensor.untyped_storage()._cdata), int(tensor.storage_offset())


def companion_files(base: Path) -> list[Path]:
    """What makes weights a model: config, generation config, tokenizer, chat template, licence. No code."""
    return sorted(
        file
        for file in base.iterdir()
        if file.is_file()
        and ((file.suffix in COPIED and file.name not in NOT_COPIED) or file.name.startswith(LICENCES))
    )
