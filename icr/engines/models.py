"""Models and tokenizers: how they are loaded, and how text becomes tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from icr.base.conversation import Conversation
from icr.base.errors import UserError
from icr.engines.attention import choose_attention
from icr.engines.precision import Precision

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
    return read_tokenizer(spec).get_vocab()


def load_tokenizer(spec: str, chat_template: str | None = None) -> PreTrainedTokenizerBase:
    """A tokenizer with its chat template. Raises UserError if it cannot be loaded, or has no template."""
    tokenizer = read_tokenizer(spec)
    if chat_template:
        tokenizer.chat_template = Path(chat_template).read_text(encoding="utf-8")
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

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(spec, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises plain Exception for a file that it cannot read
        raise _cannot_load("tokenizer", spec, error) from error
    return tokenizer


def has_tokenizer(spec: str) -> bool:
    """Whether a model's tokenizer is on this machine: a folder's, or a hub id's in the local cache."""
    from huggingface_hub import try_to_load_from_cache

    return Path(spec).is_dir() or isinstance(try_to_load_from_cache(spec, "tokenizer_config.json"), str)


def load_model(spec: str, dtype: torch.dtype, device: str | torch.device) -> PreTrainedModel:
    """A causal LM in eval mode: safetensors only, no remote code."""
    from transformers import AutoModelForCausalLM

    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            spec,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation=choose_attention(spec),
        )
    except (OSError, ValueError) as error:
        raise _cannot_load("model", spec, error) from error
    model.to(device)  # type: ignore[arg-type]
    model.eval()  # type: ignore[no-untyped-call]
    return model


def _cannot_load(what: str, spec: str, error: Exception) -> UserError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UserError(
        f"the {what} cannot be loaded: {first}",
        where=spec,
        do="check the name; a private model needs a login (hf auth login), an offline machine a local folder",
    )


def prompt_token_ids(tokenizer: PreTrainedTokenizerBase, prompt: Conversation) -> list[int]:
    """The chat template around a conversation, ready for the next answer.

    The template writes its own BOS where the model wants one, so the tokenizer must not add a second.

    Raises:
        UserError: as `fill_template`.
    """
    ids: list[int] = tokenizer(fill_template(tokenizer, prompt, opened=True), add_special_tokens=False)["input_ids"]
    return ids


def fill_template(tokenizer: PreTrainedTokenizerBase, messages: Conversation, *, opened: bool) -> str:
    """A conversation as the chat template writes it.

    Args:
        opened: end with the opening of an answer, which the model is to write.

    Raises:
        UserError: the template refuses these messages (some take no system message), or leaves the system message out.
    """
    from jinja2 import TemplateError

    roles = ", ".join(message["role"] for message in messages)
    do = "remove or change the messages that it does not accept, or use another chat template"
    try:
        plain = cast("list[dict[str, str]]", messages)
        text = str(tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=opened))
    except TemplateError as error:
        what = f"the chat template refuses a conversation of the roles {roles}: {error}"
        raise UserError(what, where=tokenizer.name_or_path, do=do) from error
    if any(m["role"] == "system" and m["content"].strip() not in text for m in messages):
        what = "the chat template leaves the system message out"
        raise UserError(what, where=tokenizer.name_or_path, do=do)
    return text


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token with which the chat template ends an answer; the tokenizer's EOS where the template has none."""
    mark = "\x02answer\x03"
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": mark}]
    text = str(tokenizer.apply_chat_template(messages, tokenize=False))
    after: list[int] = tokenizer(text.partition(mark)[2], add_special_tokens=False)["input_ids"]
    special = set(tokenizer.all_special_ids)
    return after[0] if after and after[0] in special else int(tokenizer.eos_token_id)


def load_scorer(name: str, precision: Precision) -> PreTrainedModel:
    import torch

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return load_model(name, dtype, "cuda" if torch.cuda.is_available() else "cpu")


def free(model: PreTrainedModel) -> None:
    """Give the device's memory back before the next model is loaded."""
    import torch

    model.to(torch.device("meta"))  # type: ignore[arg-type]
    torch.cuda.empty_cache()
