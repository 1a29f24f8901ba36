"""Models and tokenizers: how they are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from icr.base.errors import UserError
from icr.base.hub import find_cached
from icr.engines.attention import choose_attention
from icr.engines.memory import loading
from icr.engines.precision import Precision
from icr.engines.templates import Template

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def check_same_vocabulary(
    policy: str,
    reference: str,
    where: str = "",
    do: str = "use the model that the policy was trained from as the reference",
) -> None:
    """The reward subtracts log-probs of the same token ids, so both models must mean the same by an id.

    Args:
        where, do: for the message, where the two are not those of a config.

    Raises:
        UserError: they do not.
    """
    ours, theirs = _vocabulary(policy), _vocabulary(reference)
    if ours == theirs:
        return
    differing = sorted(t for t in ours.keys() | theirs.keys() if ours.get(t) != theirs.get(t))
    who = "two models" if where else "policy and reference"
    raise UserError(
        f"{who} have different vocabularies ({len(ours)} and {len(theirs)} tokens; "
        f"{len(differing)} differ, the first: {differing[0]!r})",
        where=where or f"models.policy: {policy}, models.reference: {reference}",
        do=do,
    )


def _vocabulary(spec: str) -> dict[str, int]:
    file = Path(spec) / "tokenizer.json"
    if file.is_file():
        from tokenizers import Tokenizer

        vocab: dict[str, int] = Tokenizer.from_file(str(file)).get_vocab(with_added_tokens=True)
        return vocab
    return read_tokenizer(spec).get_vocab()


def load_tokenizer(spec: str, template: Template | None = None) -> PreTrainedTokenizerBase:
    """A tokenizer that writes conversations in a chat template.

    Args:
        spec: folder or hub id; of a .gguf file, the tokenizer that is in it.
        template: the chat template and its arguments; None is the tokenizer's own as it is.

    Raises:
        UserError: it cannot be loaded, or has no chat template.
    """
    return _with_template(read_tokenizer(spec), spec, template)


def load_counter(folder: Path, template: Template) -> PreTrainedTokenizerBase:
    """`load_tokenizer` for counting tokens. Where the folder has a tokenizer.json, nothing is asked of transformers'
    list of architectures, which takes seconds to import.

    Raises:
        UserError: as `load_tokenizer`.
    """
    if not (folder / "tokenizer.json").is_file():
        return load_tokenizer(str(folder), template)
    from transformers import PreTrainedTokenizerFast

    try:
        tokenizer: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(folder)
    except Exception as error:  # as below
        raise _cannot_load("tokenizer", str(folder), error) from error
    return _with_template(tokenizer, str(folder), template)


def _with_template(tokenizer: PreTrainedTokenizerBase, spec: str, template: Template | None) -> PreTrainedTokenizerBase:
    if template is not None:
        template.apply(tokenizer)
    if not tokenizer.chat_template:
        raise UserError(
            "the tokenizer has no chat template",
            where=spec,
            do="name a Jinja file in models.chat_template, or use a chat model",
        )
    return tokenizer


def read_tokenizer(spec: str) -> PreTrainedTokenizerBase:
    """A tokenizer, with or without a chat template. Raises UserError if it cannot be loaded."""
    from transformers import AutoTokenizer

    path = Path(spec)
    folder, options = (str(path.parent), {"gguf_file": path.name}) if path.suffix == ".gguf" else (spec, {})
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **options)
    except Exception as error:  # the tokenizers library raises plain Exception for a file that it cannot read
        raise _cannot_load("tokenizer", spec, error) from error
    return tokenizer


def find_tokenizer(spec: str) -> str | None:
    """The folder of a model's tokenizer, a hub id's in the local cache; None: it is not on this machine."""
    if Path(spec).is_dir():
        return spec
    found = find_cached(spec, "tokenizer_config.json")
    return str(found) if found else None


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
                spec,
                dtype=dtype,
                device_map={"": device},
                use_safetensors=True,
                trust_remote_code=False,
                attn_implementation=choose_attention(spec),
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


def load_scorer(name: str, precision: Precision) -> PreTrainedModel:
    import torch

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return load_model(name, dtype, "cuda" if torch.cuda.is_available() else "cpu")


def free(model: PreTrainedModel) -> None:
    """Give the device's memory back before the next model is loaded."""
    import torch

    model.to(torch.device("meta"))  # type: ignore[arg-type]
    torch.cuda.empty_cache()
