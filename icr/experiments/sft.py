"""`icr sft`: from demonstrations to a language model that answers like them."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pyarrow as pa

from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.files import read_json, write_json, write_text
from icr.base.problems import Collector
from icr.base.shown import show_path
from icr.config.load import dump_config
from icr.config.schema import Train
from icr.config.sft import SftConfig
from icr.engines.check import check_chat, check_located, find_folder
from icr.engines.context import context_length
from icr.engines.folders import locate
from icr.engines.sizes import measure_checkpoint
from icr.engines.templates import Template
from icr.experiments.training import check_batch, describe_training, train_once
from icr.languages import check_languages
from icr.work.classify import PROMPTED
from icr.work.encode import EncodeAnswersTask
from icr.work.machine import Machine
from icr.work.shards import cut_table
from icr.work.steps import Step
from loops.checks import check_train
from loops.data import ANSWERED, HELD, write_training_data
from loops.disk import check_disk, estimate_disk, folder_size
from loops.sft_family import SFTFamily
from loops.spec import CardFacts, TrainSpec
from prompts.preferences.make import Rows, load_data
from prompts.preferences.rows import PairRow, RatingRow

if TYPE_CHECKING:
    from rich.console import Console

CONFIG, RESULT, OBJECTIVE = "config.yaml", "sft.json", "loops.sft:SFT"
METHOD = "Fine-tuned on demonstrations (supervised: mean negative log-likelihood of the responses' tokens)."
LEAVES = (
    "tokens", "data.parquet", "dropped.json", "metrics.jsonl", "validation.jsonl", "counts.json", "checkpoints", "best",
    "model", "adapter", "start.json", "restarted.json", RESULT,
)  # fmt: skip
"""What a training leaves in RUN."""
SHARD = 2048
"""Demonstrations that a worker reads at a time."""


@dataclass(frozen=True)
class Demonstration:
    lang: str
    group: str
    prompt: str
    """As tables hold it."""
    response: str


@dataclass(frozen=True)
class SftInputs:
    """What the checks read on their way."""

    base: str
    """A folder or a hub id."""
    languages: list[str]
    train: Sequence[Demonstration]
    validation: Sequence[Demonstration]


def plain_train(config: SftConfig) -> Train:
    """The settings of the training as `loops` knows them. Which rows are for validation, the data file says."""
    unused = {"warmup_ratio"} if config.train.warmup_steps is not None else set()
    settings = config.train.model_dump(include=set(Train.model_fields) - unused)
    return Train.model_validate(settings | {"validation": 1})


def template_of(config: SftConfig) -> Template:
    """How prompts are written."""
    return Template(file=config.chat_template, arguments=config.template_arguments)


def demonstrations(rows: Rows, languages: Sequence[str], limit: int | None) -> list[Demonstration]:
    """Of pairs the chosen responses, of ratings those with label 1; each different one once, by language.

    Args:
        limit: of each language.
    """
    found = []
    for lang in languages:
        own = dict.fromkeys(_demonstrated(row) for row in rows if row["lang"] == lang)
        found += [one for one in own if one is not None][:limit]
    return found


def _demonstrated(row: PairRow | RatingRow) -> Demonstration | None:
    if "response" in row:
        rating = cast(RatingRow, row)
        good = rating["label"] == 1
        return Demonstration(rating["lang"], rating["group"], rating["prompt"], rating["response"]) if good else None
    return Demonstration(row["lang"], row["group"], row["prompt"], row["chosen"])


def check_sft(config: SftConfig, *, clustered: bool = False) -> SftInputs:
    """Check everything that needs no loaded model.

    Args:
        clustered: as of `check_batch`.

    Raises:
        ConfigError: every problem of the config, the data and the base.
    """
    found = Collector()
    if config.run is None:
        found.add("no output folder is named", where="run", do="add --run FOLDER, or `run: FOLDER` to the file")
    base = found.attempt("", locate, config.base, "base")
    if base.endswith(".gguf"):
        do = "name a folder or a hub id with safetensors weights"
        found.add("a .gguf file cannot be trained", where=f"base: {config.base}", do=do)
    elif base:
        found.attempt(None, check_located, base, "base")
        found.attempt(None, check_chat, base, template_of(config), "base")
    found.attempt(None, check_train, plain_train(config))
    if config.chat_template and not Path(config.chat_template).is_file():
        found.add(f"file {config.chat_template} not found", where="chat_template", do="check the path")
    found.attempt(None, check_batch, config.train, config.train.batch_size, clustered=clustered)
    data = found.attempt(None, load_data, Path(config.data.path), "data.path")
    languages: list[str] = config.data.languages or (sorted({row["lang"] for row in data.train}) if data else [])
    found.attempt(None, check_languages, languages, "data.languages")
    parts: list[list[Demonstration]] = [[], []]
    if data is not None:
        parts = [
            demonstrations(data.train, languages, config.data.limit),
            demonstrations(data.validation, languages, None),
        ]
        for name, part in zip(("training", "validation"), parts, strict=True):
            for lang in languages:
                if not any(one.lang == lang for one in part):
                    do = "remove the language, or make the data again with icr rm data (--validation holds groups back)"
                    found.add(f"the data has no {name} demonstrations in {lang}", where="data.languages", do=do)
        if any(parts) and not any(one.prompt for part in parts for one in part):
            do = "name data with prompts (for Seahorse, icr rm data --documents)"
            found.add("the demonstrations answer no prompts", where=f"data.path: {config.data.path}", do=do)
    found.raise_any()
    return SftInputs(base, languages, *parts)


def train_sft(config: SftConfig, console: Console) -> Fields:
    """Train, or go on with the training.

    Returns:
        What RUN/sft.json has: `training`, the counts with the best validation loss, and `languages`.

    Raises:
        ConfigError: everything that is wrong with config, data and base.
        UserError: the folder is in use, or holds a training of other data or with other settings.
        StageFailed: a worker or the training failed.
    """
    inputs = check_sft(config)
    run = Path(config.run or "").resolve()

    def work(machine: Machine) -> Fields:
        return do_sft(run, config, inputs, machine)

    def describe() -> Step:
        return describe_training(config, inputs.base)

    return train_once(run, console, describe, work, RESULT, LEAVES)


def do_sft(run: Path, config: SftConfig, inputs: SftInputs, machine: Machine) -> Fields:
    """The training's work in the folder `run`, on a machine that others may use as well; returns its counts."""
    write_text(run / CONFIG, dump_config(config, run))
    counts = _train(run, config, inputs, machine)
    shown = Counter(one.lang for one in inputs.train)
    write_json(run / RESULT, {"training": counts, "languages": dict(shown)})
    return counts


def _train(run: Path, config: SftConfig, inputs: SftInputs, machine: Machine) -> Fields:
    """Tokens, then the training; returns its counts."""
    base = Path(machine.folders({inputs.base}, config.chat_template)[inputs.base])
    if find_folder(inputs.base) is None:
        check_located(str(base), "base")
    train = plain_train(config)
    train = train.model_copy(update={"precision": machine.precision(train.precision)})
    data, dropped, size = run / "data.parquet", run / "dropped.json", measure_checkpoint(str(base))
    if size is not None and not (run / "model").exists():
        check_disk(estimate_disk(train, size), run, folder_size(run / "checkpoints") + folder_size(run / "best"))
    if not (run / "model").exists() and not (data.is_file() and dropped.is_file()):
        write_json(dropped, _write_data(run, config, inputs, base, machine))
    spec = TrainSpec(
        model=str(base),
        data=data,
        output=run / "model",
        work=run,
        events=Path(),
        objective=OBJECTIVE,
        train=train,
        patience=config.train.patience,
        answer_tokens=config.best.max_tokens if config.best.by == "rouge-l" else None,
        chat_template=Path(config.chat_template) if config.chat_template else None,
        template_arguments=config.template_arguments,
        facts=CardFacts(
            method=METHOD,
            tag="sft",
            objective="supervised fine-tuning",
            languages=inputs.languages,
            pairs=len(inputs.train),
            base=show_path(inputs.base, run),
            settings=train.model_dump(mode="json") | _chosen_by(config),
        ),
    )
    counts = machine.train(spec, "training (supervised)", run.name)
    return {**counts, "too_long": read_json(dropped)}


def _write_data(
    run: Path, config: SftConfig, inputs: SftInputs, base: Path, machine: Machine
) -> dict[str, dict[str, int]]:
    """The training's data file. Returns, by split and language, the demonstrations that are too long.

    Raises:
        UserError: no training row or no validation row fits.
    """
    rows = [(one, False) for one in _mixed(inputs.train, config.data.mix)] + [(one, True) for one in inputs.validation]
    task = EncodeAnswersTask(model=str(base), template=template_of(config))
    columns = {"prompt": [one.prompt for one, _ in rows], "response": [one.response for one, _ in rows]}
    tables, _ = machine.fill(run / "tokens", task, cut_table(pa.table(columns, schema=PROMPTED), SHARD), "tokens")
    read = [row for table in tables for row in table.to_pylist()]
    longest = min(config.max_tokens, context_length(str(base)))
    long: dict[str, Counter[str]] = {}
    kept, answered = [], Counter[str]()
    for (one, held), ids in zip(rows, read, strict=True):
        if len(ids["prompt_ids"]) + len(ids["response_ids"]) > longest:
            long.setdefault("validation" if held else "train", Counter())[one.lang] += 1
        else:
            kept.append({"prompt_id": one.group, HELD: held, **ids})
            if config.best.by == "rouge-l":
                asked = held and (config.best.limit is None or answered[one.lang] < config.best.limit)
                kept[-1][ANSWERED] = asked
                answered[one.lang] += asked
    for held, name in ((False, "training"), (True, "validation")):
        if not any(row[HELD] is held for row in kept):
            what = f"no {name} demonstration fits into {longest} tokens"
            raise UserError(what, where="max_tokens", do="raise it, or use a base with more context")
    write_training_data(run / "data.parquet", kept, SFTFamily.columns)
    shutil.rmtree(run / "tokens")
    return {name: dict(counts) for name, counts in long.items()}


def _chosen_by(config: SftConfig) -> Fields:
    """For the card."""
    return {"best": config.best.model_dump(exclude_none=True)} if config.best.by != "loss" else {}


def _mixed(rows: Sequence[Demonstration], mix: str) -> list[Demonstration]:
    """With `even`, demonstrations of languages that have fewer are repeated in turn."""
    by_language: dict[str, list[Demonstration]] = {}
    for row in rows:
        by_language.setdefault(row.lang, []).append(row)
    most = max(map(len, by_language.values()))
    counts = {lang: most if mix == "even" else len(own) for lang, own in by_language.items()}
    return [own[n % len(own)] for lang, own in by_language.items() for n in range(counts[lang])]
