"""What is wrong with a model, found by its files alone: seconds before a run instead of an error inside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from icr.base.conversation import wrap_text
from icr.base.errors import UserError, some
from icr.base.problems import Collector
from icr.engines.adapters import is_adapter
from icr.engines.context import context_length
from icr.engines.folders import cached_snapshot, read_config
from icr.engines.language_part import find_language_part, has_other_parts
from icr.engines.models import read_tokenizer
from icr.engines.skeleton import Skeleton, load_skeleton
from icr.engines.templates import Template, fill_template
from icr.engines.weights import Stored, check_finite, read_headers, refuse_pointer

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "merges.txt")
CAUSAL = "AutoModelForCausalLM"


def find_folder(located: str) -> Path | None:
    """The folder that can be checked now: a whole model's, or a hub id's in the local cache.

    A .gguf file, an adapter and a hub id that is not here yet are checked once they have become a folder.
    """
    path = Path(located)
    if path.is_dir():
        return None if is_adapter(path) else path
    return None if path.is_file() else cached_snapshot(located)


def check_model(folder: Path, where: str, *, auto_class: str = CAUSAL) -> Skeleton | None:
    """Check a model's folder: config, remote code, weights against the config, a sample of the numbers, tokenizer.

    Args:
        where: the config key that names the model, for messages.
        auto_class: the class of transformers that loads it.

    Returns:
        The model without its weights; None for a multimodal checkpoint, whose language part is checked instead.

    Raises:
        ConfigError: everything that is wrong.
    """
    found = Collector()
    skeleton: Skeleton | None = None
    config = found.attempt(None, check_config, folder, where, auto_class)
    tensors = found.attempt(None, read_headers, folder, where)
    if tensors is not None:
        found.attempt(None, check_finite, tensors, where)
    if config is None:  # without it nothing else can be loaded
        found.raise_any()
    if tensors is not None and auto_class == CAUSAL and has_other_parts(folder):
        found.attempt(None, find_language_part, folder, where)
    elif tensors is not None:
        skeleton = found.attempt(None, check_fit, folder, tensors, where, auto_class)
    tokenizer = found.attempt(None, check_tokenizer, folder, where, skeleton.embedding_rows if skeleton else None)
    if tokenizer is not None:
        found.attempt(None, context_length, str(folder))
    found.raise_any()
    return skeleton


def check_located(located: str, where: str) -> None:
    """`check_model` of what `locate` gives, as far as it is on this machine."""
    folder = find_folder(located)
    if folder is not None:
        check_model(folder, where)


def check_chat(located: str, template: Template, where: str, key: str = "chat_template") -> None:
    """The chat template of a model that answers, as far as the model is on this machine.

    Args:
        where: the config key that names the model; `key`: the one that names the template's file.

    Raises:
        UserError: there is none, it cannot be read, or it refuses a question.
    """
    folder = find_folder(located)
    if folder is None or not (folder / "tokenizer_config.json").is_file():
        return
    if template.file and not Path(template.file).is_file():
        return
    tokenizer = read_tokenizer(str(folder))
    template.apply(tokenizer)
    at, do = f"{key}: {template.file}" if template.file else f"{where}: {folder}", "use another chat template"
    if not tokenizer.chat_template:
        raise UserError("the tokenizer has no chat template", where=at, do=f"name a Jinja file in {key}")
    try:
        fill_template(tokenizer, wrap_text("?"), opened=True)
    except UserError as error:
        raise UserError(error.what, where=at, do=f"correct it, or {do}") from error


def check_config(folder: Path, where: str, auto_class: str = CAUSAL) -> PreTrainedConfig:
    """The config of a model that transformers has itself, without code that comes with the checkpoint.

    Raises:
        UserError: it has not, the config cannot be read or has impossible values, or the weights are quantised.
    """
    import transformers

    config = read_config(folder, where)
    at, kind = f"{where}: {folder}", str(config.get("model_type"))
    version = f"transformers {transformers.__version__}"
    if kind not in transformers.CONFIG_MAPPING and "auto_map" in config:
        raise UserError(
            "the model needs code that comes with it (auto_map in config.json), and icr does not run such code: "
            f"{version} does not know models of the type {kind}",
            where=at,
            do="name a model that transformers supports itself",
        )
    if kind not in transformers.CONFIG_MAPPING:
        what = f"{version} does not know models of the type {kind}"
        raise UserError(what, where=f"{at}: config.json", do="check its model_type, or install a newer version")
    if isinstance(config.get("quantization_config"), Mapping):
        raise UserError(
            "the weights are quantised, and icr needs the original ones",
            where=f"{at}: config.json, quantization_config",
            do="name the model that was quantised, or a .gguf file, which is dequantised",
        )
    try:
        made: PreTrainedConfig = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever a model's own checks raise
        raise _refuse_config(error, at) from error
    known = type(made) in getattr(transformers, auto_class)._model_mapping
    if (not known and not isinstance(config.get("text_config"), Mapping)) or (auto_class == CAUSAL and _reads(made)):
        task = "causal language models" if auto_class == CAUSAL else "sequence classifiers"
        raise UserError(f"models of the type {kind} are not {task}", where=at, do="name another model")
    return made


def _reads(config: PreTrainedConfig) -> bool:
    """Whether a model is an encoder, of a type that transformers also has as a causal language model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    decodes = (getattr(config, name, False) for name in ("is_decoder", "causal", "is_encoder_decoder"))
    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not any(decodes)


def _refuse_config(error: Exception, at: str) -> UserError:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UserError(
        f"no model can be built from config.json: {first}",
        where=at,
        do="use the config.json that was saved with the weights",
    )


def check_fit(folder: Path, tensors: Mapping[str, Stored], where: str, auto_class: str = CAUSAL) -> Skeleton:
    """Whether the weights are those that config.json asks for.

    Raises:
        UserError: tensors are missing, or of another shape; the config makes no model.
    """
    at = f"{where}: {folder}"
    try:
        skeleton = load_skeleton(folder, tensors, auto_class)
    except Exception as error:  # an impossible config shows itself anywhere in a model's own code
        raise _refuse_config(error, at) from error
    if skeleton.mismatched:
        name, found, wanted = skeleton.mismatched[0]
        raise UserError(
            f"the weights do not fit config.json: {len(skeleton.mismatched)} tensors have another shape, the first: "
            f"{name} is {list(found)}, config.json asks for {list(wanted)}",
            where=at,
            do="use the config.json that was saved with these weights",
        )
    if skeleton.missing:
        raise UserError(
            f"the weights do not fit config.json: {len(skeleton.missing)} tensors are missing: "
            f"{some(skeleton.missing)}",
            where=at,
            do="name a complete checkpoint, and the config.json that was saved with it",
        )
    return skeleton


def check_tokenizer(folder: Path, where: str, rows: int | None = None) -> PreTrainedTokenizerBase:
    """A tokenizer that loads, and for each of whose tokens the model has an embedding.

    Args:
        rows: of the embedding, if they are known.

    Raises:
        UserError: it does not.
    """
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            refuse_pointer(folder / name, where)
    try:
        tokenizer = read_tokenizer(str(folder))
    except UserError as error:
        do = "copy the tokenizer's files of the model that it was trained from into the folder"
        raise UserError(error.what, where=f"{where}: {folder}", do=do) from error
    last = max(tokenizer.get_vocab().values(), default=-1)
    if last < 0:
        raise UserError("the tokenizer has no tokens", where=f"{where}: {folder}", do="copy its files again")
    if rows is not None and last >= rows:
        raise UserError(
            f"the tokenizer has token ids up to {last}, but the model has {rows} embeddings",
            where=f"{where}: {folder}",
            do="use the tokenizer that was saved with these weights",
        )
    return tokenizer
