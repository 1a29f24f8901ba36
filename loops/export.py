"""The model that comes out of a training: the base model's files with new weights under exactly its keys."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import yaml
from safetensors import safe_open
from torch import Tensor
from torch.nn import Module

from icr.base.errors import IcrError
from icr.base.files import atomic_folder
from loops.families import Family
from loops.objective import Objective
from loops.spec import CardFacts

if TYPE_CHECKING:
    from peft import LoraConfig

DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
COPIED = {".json", ".jinja", ".txt", ".model", ".tiktoken"}
NOT_COPIED = {"model.safetensors.index.json", "pytorch_model.bin.index.json", "trainer_state.json"}
LICENCES = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY")
SHARD_SIZE = "5GB"


def base_dtypes(folder: Path) -> dict[str, torch.dtype]:
    """Key → dtype of every tensor in a checkpoint, from the headers of its safetensors files."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    else:
        names = ["model.safetensors"]
    found: dict[str, torch.dtype] = {}
    for name in names:
        with safe_open(folder / name, "pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 - safe_open is no dict
                found[key] = DTYPES[tensors.get_slice(key).get_dtype()]
    return found


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
        names = set(model.state_dict()) - set(found)  # buffers that are saved; sharded parameters are in `found`
        found.update({name: buffer.cpu() for name, buffer in model.named_buffers() if name in names})
    return found


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
    with _without_deepspeed():
        model = loader.from_pretrained(base, dtype=torch.float32, use_safetensors=True, **changes)
    merged = get_peft_model(model, lora)
    missing = merged.load_state_dict(dict(adapter), strict=False)
    if missing.unexpected_keys:
        raise IcrError(f"the adapter has tensors that the model does not know: {missing.unexpected_keys[:3]}")
    plain: Module = merged.merge_and_unload()
    return {name: parameter.detach() for name, parameter in plain.named_parameters(remove_duplicate=False)}


@contextmanager
def _without_deepspeed() -> Iterator[None]:
    """Load a model whole: with ZeRO-3 it would be shared out, too, and wait for the other ranks."""
    from transformers.integrations import deepspeed

    active, deepspeed._hf_deepspeed_config_weak_ref = deepspeed._hf_deepspeed_config_weak_ref, None
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = active  # the training may go on


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
    from transformers.core_model_loading import revert_weight_conversion

    named: dict[str, Tensor] = revert_weight_conversion(model, weights)  # type: ignore[arg-type]
    dtypes = _final_dtypes(base_dtypes(base), named, family)
    missing = sorted(set(dtypes) - set(named))
    tied = {key for key, tensor in named.items() if key not in dtypes and _is_alias(tensor, named, dtypes)}
    extra = sorted(set(named) - set(dtypes) - tied)
    if missing or extra:
        raise IcrError(f"the trained model's keys differ from those in {base}: missing {missing}, unexpected {extra}")
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
        save_torch_state_dict(final, tmp, max_shard_size=SHARD_SIZE)
        write_model_card(tmp, facts)


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
    return any(key in named and named[key].data_ptr() == tensor.data_ptr() for key in kept)


def companion_files(base: Path) -> list[Path]:
    """What makes weights a model: config, generation config, tokenizer, chat template, licence. No code."""
    return sorted(
        file
        for file in base.iterdir()
        if file.is_file()
        and ((file.suffix in COPIED and file.name not in NOT_COPIED) or file.name.startswith(LICENCES))
    )


def write_model_card(folder: Path, facts: CardFacts) -> None:
    """`README.md`: how this model was made."""
    languages, pairs = facts.languages, facts.pairs
    head: dict[str, object] = {
        "library_name": "transformers",
        "tags": ["implicit-cross-lingual-rewarding", str(facts.objective)],
    }
    if languages:
        head["language"] = languages
    title = "a trained model" if facts.round is None else f"round {facts.round}"
    lines = ["---", yaml.safe_dump(head, sort_keys=False).strip(), "---", "", f"# icr, {title}", ""]
    lines += [
        "Made by Implicit Cross-Lingual Rewarding (arXiv 2503.04647): the policy's own answers, paired by the reward",
        "implied by its English alignment, and trained on in every language.",
        "",
    ]
    rows = {
        "trained from": facts.base, "reference of the reward": facts.reference, "objective": facts.objective,
    }  # fmt: skip
    lines += [f"- {label}: {value}" for label, value in rows.items() if value is not None]
    if isinstance(pairs, dict):
        lines.append(f"- pairs: {sum(pairs.values())}")
    elif pairs is not None:
        lines.append(f"- pairs: {pairs}")
    if languages and (facts.alpha or isinstance(pairs, dict)):
        lines += ["", f"| language | pairs | α (reward per {facts.length_unit}) |", "|---|---|---|"]
        for language in languages:
            count = pairs.get(language, 0) if isinstance(pairs, dict) else ""
            lines.append(f"| {language} | {count} | {_number(facts.alpha.get(language))} |")
    if facts.settings:
        lines += ["", "## Settings", "", "```yaml", yaml.safe_dump(facts.settings, sort_keys=False).strip(), "```"]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
