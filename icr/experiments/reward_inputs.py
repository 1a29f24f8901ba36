"""What a reward model is trained from, and everything that is wrong with it before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from icr.base.conversation import wrap_text
from icr.base.errors import UserError
from icr.base.problems import Collector
from icr.config.reward_model import RewardModelConfig
from icr.config.schema import Train
from icr.engines.classifier import choose_pad, longest_input
from icr.engines.folders import locate, read_config
from icr.engines.templates import Template, fill_template
from icr.experiments.training import check_batch
from icr.languages import check_languages
from loops.checks import check_dropout, check_train
from loops.fit import check_trainable
from loops.objective import Setting
from prompts.preferences.make import PreferenceData, Rows, load_data
from prompts.preferences.rows import RatingRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Loss = Literal["pairwise", "pointwise"]
OBJECTIVES: Mapping[Loss, str] = {"pairwise": "loops.reward:Pairwise", "pointwise": "loops.reward:Pointwise"}
CLASSIFIER = "AutoModelForSequenceClassification"
MARK, END = "\x02answer\x03", "\x02end\x03"
"""How the answer begins and ends that a chat template is tried with."""


@dataclass(frozen=True)
class RewardInputs:
    """What the checks read on their way."""

    base: str
    """A folder or a hub id."""
    data: PreferenceData
    loss: Loss
    languages: list[str]
    train: Rows
    """Of the languages, up to `data.limit` each."""
    validation: Rows


@dataclass(frozen=True)
class Base:
    """How a base is read as a classifier."""

    longest: int
    """Tokens of a sequence."""
    pad: int
    pad_token: str
    decoder: bool

    def settings(self, config: RewardModelConfig) -> dict[str, Setting]:
        """Of the objective."""
        return {"pad": self.pad, "pad_token": self.pad_token, "center": config.center}


def plain_train(config: RewardModelConfig) -> Train:
    """The settings of the training as `loops` knows them. Which rows are for validation, the data file says."""
    unused = {"warmup_ratio"} if config.train.warmup_steps is not None else set()
    settings = config.train.model_dump(include=set(Train.model_fields) - unused)
    return Train.model_validate(settings | {"validation": 1})


def check_inputs(
    config: RewardModelConfig, data: PreferenceData | None = None, *, clustered: bool = False
) -> RewardInputs:
    """Check everything that needs no base model in a folder.

    Args:
        data: of the config's folder, if it was read before.
        clustered: as of `check_batch`.

    Raises:
        ConfigError: every problem of the config and of the data.
    """
    found = Collector()
    if config.run is None:
        found.add("no output folder is named", where="run", do="add --run FOLDER, or `run: FOLDER` to the file")
    base = found.attempt("", _locate_base, config.base)
    found.attempt(None, check_train, plain_train(config))
    found.attempt(None, check_batch, config.train, config.train.batch_size, clustered=clustered)
    if config.chat_template and not Path(config.chat_template).is_file():
        found.add(f"file {config.chat_template} not found", where="chat_template", do="check the path")
    found.attempt(None, check_languages, config.data.languages or [], "data.languages")
    data = data or found.attempt(None, load_data, Path(config.data.path), "data.path")
    if data is None:
        found.raise_any()
    assert data is not None
    loss: Loss = "pairwise" if data.kind == "pairs" else "pointwise"
    if config.loss not in ("auto", loss):
        what = f"the data has {data.kind}, which the {config.loss} loss cannot use"
        found.add(what, where="loss", do=f"write {loss} or auto")
    if loss == "pointwise" and (config.margin or config.center):
        found.add("margin and center belong to the pairwise loss", where="margin, center", do="remove them")
    languages = config.data.languages or sorted({row["lang"] for row in data.train})
    found.attempt(None, check_languages, languages, "data.languages")
    train = _select(data.train, languages, config.data.limit)
    validation = _select(data.validation, languages, None)
    for lang in languages:
        found.attempt(None, _check_language, lang, train, validation, data.kind == "ratings")
    found.raise_any()
    return RewardInputs(base, data, loss, languages, train, validation)


def _locate_base(spec: str) -> str:
    if spec.endswith(".gguf"):
        do = "name a folder or a hub id with safetensors weights"
        raise UserError("a .gguf file cannot be trained as a reward model", where=f"base: {spec}", do=do)
    return locate(spec, "base")


def _select(rows: Rows, languages: Sequence[str], limit: int | None) -> Rows:
    chosen = [row for lang in languages for row in [row for row in rows if row["lang"] == lang][:limit]]
    return cast(Rows, chosen)


def _check_language(lang: str, train: Rows, validation: Rows, ratings: bool) -> None:
    """Raises UserError for a language without rows, without validation, or without both labels."""
    for name, rows in (("training", train), ("validation", validation)):
        own = [row for row in rows if row["lang"] == lang]
        if not own:
            raise UserError(
                f"the data has no {name} rows in {lang}",
                where="data.languages",
                do="remove the language, or make the data again with icr rm data (--validation holds groups back)",
            )
        labels = {row["label"] for row in cast(list[RatingRow], own)} if ratings else {0, 1}
        if len(labels) < 2:
            what = f"all {name} rows in {lang} have the label {min(labels)}"
            raise UserError(what, where="data.languages", do="remove the language, or add rows of the other label")


def check_base(folder: Path, config: RewardModelConfig, loss: Loss) -> Base:
    """Check the base: its class, its tokenizer and template, and whether what is trained can be saved.

    Raises:
        ConfigError: everything that is wrong.
    """
    from icr.engines.check import check_config, check_tokenizer
    from icr.engines.weights import check_finite, read_headers

    found = Collector()
    found.attempt(None, _refuse_pairs_of_stacks, folder)
    found.raise_any()
    made = found.attempt(None, check_config, folder, "base", CLASSIFIER)
    tensors = found.attempt(None, read_headers, folder, "base")
    tokenizer = found.attempt(None, check_tokenizer, folder, "base")
    found.raise_any()
    assert made is not None and tensors is not None and tokenizer is not None
    found.attempt(None, check_finite, tensors, "base")
    heads = [name for name in ("score.weight", "classifier.weight", "classifier.out_proj.weight") if name in tensors]
    for name in heads:
        if tensors[name].shape[0] != 1:
            what = f"the base is a classifier with {tensors[name].shape[0]} logits, but a reward is one number"
            found.add(what, where=f"base: {folder}", do="name the model that it was trained from")
    Template(file=config.chat_template, arguments=config.template_arguments).apply(tokenizer)
    decoder = _is_decoder(made.model_type)
    where = f"chat_template: {config.chat_template}" if config.chat_template else f"base: {folder}"
    found.attempt(None, _check_template, tokenizer, decoder, where)
    pad = found.attempt((0, ""), choose_pad, tokenizer)
    found.raise_any()
    base = Base(min(config.max_tokens, longest_input(made, tokenizer)), *pad, decoder)
    train = plain_train(config)
    found.attempt(None, check_dropout, str(folder), train.dropout)
    found.attempt(None, check_trainable, folder, "base", train, OBJECTIVES[loss], base.settings(config))
    found.raise_any()
    return base


def _refuse_pairs_of_stacks(folder: Path) -> None:
    config = read_config(folder, "base")
    if config.get("is_encoder_decoder"):
        raise UserError(
            f"{config.get('model_type')} is an encoder–decoder model, which is not supported",
            where=f"base: {folder}",
            do="name an encoder (such as XLM-R) or a causal language model",
        )


def _is_decoder(model_type: str) -> bool:
    """Whether the model reads its logit at the last token, as causal language models do."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    return model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def _check_template(tokenizer: PreTrainedTokenizerBase, decoder: bool, where: str) -> None:
    """Raises UserError for a decoder without a template, and for a template that drops the answer or its end."""
    if not tokenizer.chat_template:
        if decoder:
            do = "name a Jinja file in chat_template, or use a chat model"
            raise UserError("the base has no chat template, so nothing ends a response", where=where, do=do)
        return
    answer = f"{MARK} {'and so on ' * 1000}{END}"
    try:
        text = fill_template(tokenizer, [*wrap_text("?"), {"role": "assistant", "content": answer}], opened=False)
    except UserError as error:
        raise UserError(error.what, where=where, do="correct it, or name another one in chat_template") from error
    if MARK not in text or END not in text:
        part = "a part of a long answer" if MARK in text or END in text else "the answer"
        raise UserError(f"the chat template drops {part}", where=where, do="name another one in chat_template")
    if decoder and not text.partition(END)[2].strip():
        what = "the chat template does not end an answer, so a decoder has no token to read its reward from"
        raise UserError(what, where=where, do="name one in chat_template that writes the end of turn")
