"""`icr rm train`: from preference data to a classifier, with its accuracy beside baselines."""

from __future__ import annotations

import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pyarrow as pa

from eval.reward_models.scoring import Scorer, measure
from icr.base.content import hash_file, hash_value, identify_model
from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.files import read_json, write_json, write_text
from icr.base.lock import RunLock
from icr.base.rundir import StageRecord
from icr.base.shown import show_path
from icr.config.load import dump_config, flatten
from icr.config.reward_model import RewardModelConfig
from icr.engines.check import find_folder
from icr.engines.templates import Template
from icr.experiments.reward_card import METHOD, TAG, write_reward_card
from icr.experiments.reward_inputs import OBJECTIVES, Base, RewardInputs, check_base, check_inputs, plain_train
from icr.work.classify import PROMPTED, ReadTask
from icr.work.machine import Machine
from icr.work.settings import OPERATIONAL, USES
from icr.work.shards import cut_table
from icr.work.steps import Step, stale, stamp
from loops.data import HELD, write_training_data
from loops.reward_model import PairwiseFamily, PointwiseFamily
from loops.spec import CardFacts, TrainSpec
from prompts.preferences.make import TRAIN, VALIDATION, Rows
from prompts.preferences.rows import PairRow, RatingRow

if TYPE_CHECKING:
    from rich.console import Console

CONFIG, RECORD, RESULT = "config.yaml", "step.json", "validation.json"
SHARD = 2048
"""Texts that a worker reads at a time."""
WORK = ("tokens", "data.parquet", "metrics.jsonl", "validation.jsonl", "counts.json", "checkpoints", "best", "scores",
        "model", "adapter", "start.json", "restarted.json", RESULT)  # fmt: skip
INPUTS = ("run", "base", "chat_template", "data.path")
"""Keys that name an input of the training, which is known by its content."""
SAME_SCORE = 1e-9

Sequence_ = tuple[list[int], list[int]]
"""(ids, segments)"""


def train_reward_model(config: RewardModelConfig, console: Console) -> Fields:
    """Train, or go on with the training, and measure the model on the validation rows.

    Returns:
        What RUN/validation.json has.

    Raises:
        ConfigError: everything that is wrong with config, data and base.
        UserError: the folder is in use, or holds a training of other data or with other settings.
        StageFailed: a worker or the training failed.
    """
    inputs = check_inputs(config)
    folder = find_folder(inputs.base)
    if folder is not None:
        check_base(folder, config, inputs.loss)
    run = Path(config.run or "").resolve()
    lock = RunLock(run / ".lock")
    processes = None if config.train.processes == "auto" else config.train.processes
    machine = Machine(run, console, [lock.fd], processes)
    try:
        base = Path(machine.folders({inputs.base}, config.chat_template)[inputs.base])
        read_as = check_base(base, config, inputs.loss)
        record = _begin(run, config, inputs, machine)
        started = time.monotonic()
        record.counts = _train(run, config, inputs, base, read_as, machine)
        result = _measure(run, config, inputs, machine, record.counts)
        record.state, record.finished = "done", time.time()
        record.seconds += time.monotonic() - started
        write_json(run / RECORD, record.model_dump(mode="json"))
        return result
    finally:
        machine.stop()
        lock.release()


def describe_training(config: RewardModelConfig, inputs: RewardInputs) -> Step:
    """The training as a step: what its result depends on."""
    data = Path(config.data.path)
    named = {"base": identify_model(inputs.base)}
    named |= {"training data": hash_file(data / TRAIN), "validation data": hash_file(data / VALIDATION)}
    if config.chat_template:
        named["chat template"] = hash_file(Path(config.chat_template))
    settings = {key: value for key, value in flatten(config).items() if key not in INPUTS and not _may_change(key)}
    return Step("train", named, settings)


def _may_change(key: str) -> bool:
    return USES.get(key) == (OPERATIONAL,) if key.startswith("train.") else False


def _begin(run: Path, config: RewardModelConfig, inputs: RewardInputs, machine: Machine) -> StageRecord:
    """The record of the training; what an earlier one of other files left unfinished is removed.

    Raises:
        UserError: the folder holds a finished training of other files, or one with other settings.
    """
    step = describe_training(config, inputs)
    before = StageRecord.model_validate(read_json(run / RECORD)) if (run / RECORD).is_file() else None
    changes = stale(step, before) if before else []
    if before and changes and (before.state == "done" or before.settings != dict(step.settings)):
        lines = "\n".join(f"    {change}" for change in changes)
        what = f"this folder holds a training of other data or with other settings:\n{lines}"
        raise UserError(what, where=str(run / CONFIG), do="restore the old values and files, or use another --run")
    if changes:
        machine.note(f"the training starts over: {'; '.join(changes)}")
        for name in WORK:
            shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink(missing_ok=True)
    record = stamp(step, before or StageRecord(state="running", started=time.time()))
    if record.state != "done":
        write_text(run / CONFIG, dump_config(config, run))
        write_json(run / RECORD, record.model_dump(mode="json"))
    return record


def _train(
    run: Path, config: RewardModelConfig, inputs: RewardInputs, base: Path, read_as: Base, machine: Machine
) -> Fields:
    """Tokens, then the training; returns its counts."""
    train = plain_train(config)
    train = train.model_copy(update={"precision": machine.precision(train.precision)})
    data, dropped = run / "data.parquet", run / "dropped.json"
    if not (run / "model").exists() and not (data.is_file() and dropped.is_file()):
        write_json(dropped, _write_data(run, config, inputs, base, read_as, machine))
    facts = CardFacts(
        method=METHOD[inputs.loss],
        tag=TAG,
        objective=f"reward model, {inputs.loss}",
        languages=inputs.languages,
        pairs=len(inputs.train),
        base=show_path(inputs.base, run),
        settings=train.model_dump(mode="json"),
    )
    spec = TrainSpec(
        model=str(base),
        data=data,
        output=run / "model",
        work=run,
        events=Path(),
        objective=OBJECTIVES[inputs.loss],
        settings=read_as.settings(config),
        train=train,
        patience=config.train.patience,
        chat_template=Path(config.chat_template) if config.chat_template else None,
        template_arguments=config.template_arguments,
        facts=facts,
    )
    counts = machine.train(spec, f"training ({inputs.loss} reward model)")
    return {**counts, "too_long": read_json(dropped)}


def _write_data(
    run: Path, config: RewardModelConfig, inputs: RewardInputs, base: Path, read_as: Base, machine: Machine
) -> dict[str, dict[str, int]]:
    """The training's data file. Returns, by split and language, the rows that are too long.

    Raises:
        UserError: no training row or no validation row fits.
    """
    rows = [(row, False) for row in _mixed(inputs.train, config.data.mix)] + [(row, True) for row in inputs.validation]
    read = _read_texts(run, config, base, machine, [text for row, _ in rows for text in _texts(row)])
    long: defaultdict[str, Counter[str]] = defaultdict(Counter)
    kept = []
    for row, held in rows:
        sides = [_fit(read[text], read_as, config.truncate) for text in _texts(row)]
        if any(side is None for side in sides):
            long["validation" if held else "train"][row["lang"]] += 1
        else:
            kept.append(_make_row(row, held, cast(list[Sequence_], sides), config.margin))
    for held, name in ((False, "training"), (True, "validation")):
        if not any(row[HELD] is held for row in kept):
            what = f"no {name} row fits into {read_as.longest} tokens"
            raise UserError(
                what, where="max_tokens", do="raise it, set truncate: left, or use a base with more context"
            )
    family = PairwiseFamily if inputs.loss == "pairwise" else PointwiseFamily
    write_training_data(run / "data.parquet", kept, family.columns)
    return {name: dict(counts) for name, counts in long.items()}


def _read_texts(
    run: Path, config: RewardModelConfig, base: Path, machine: Machine, texts: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], Sequence_]:
    """(prompt, response) → what the classifier reads."""
    different = list(dict.fromkeys(texts))
    table = pa.table({"prompt": [p for p, _ in different], "response": [r for _, r in different]}, schema=PROMPTED)
    template = Template(file=config.chat_template, arguments=config.template_arguments)
    place = run / "tokens" / hash_value([identify_model(str(base)), template.model_dump(), different])[:16]
    tables, _ = machine.fill(place, ReadTask(model=str(base), template=template), cut_table(table, SHARD), "tokens")
    read = [
        both for table in tables for both in zip(table["ids"].to_pylist(), table["segments"].to_pylist(), strict=True)
    ]
    shutil.rmtree(run / "tokens")
    return dict(zip(different, read, strict=True))


def _texts(row: PairRow | RatingRow) -> list[tuple[str, str]]:
    """(prompt, response) of the row's responses."""
    if "response" in row:
        rating = cast(RatingRow, row)
        return [(rating["prompt"], rating["response"])]
    return [(row["prompt"], row["chosen"]), (row["prompt"], row["rejected"])]


def _fit(read: Sequence_, base: Base, truncate: str) -> Sequence_ | None:
    """A sequence of at most so many tokens; None where it is left out. An encoder's first token stays."""
    ids, segments = read
    over = len(ids) - base.longest
    if over <= 0:
        return read
    if truncate == "drop":
        return None
    first = 0 if base.decoder else 1
    return ids[:first] + ids[first + over :], segments[:first] + segments[first + over :]


def _make_row(row: PairRow | RatingRow, held: bool, sides: list[Sequence_], margin: bool) -> Mapping[str, object]:
    """A row of the data file. Its prompt is in the sequences."""
    made: dict[str, object] = {"prompt_id": row["group"], "prompt_ids": [], HELD: held}
    if "response" in row:
        ((ids, segments),) = sides
        return made | {
            "response_ids": ids,
            "response_segments": segments,
            "label": float(cast(RatingRow, row)["label"]),
        }
    (chosen, chosen_segments), (rejected, rejected_segments) = sides
    return made | {
        "chosen_ids": chosen,
        "rejected_ids": rejected,
        "chosen_segments": chosen_segments,
        "rejected_segments": rejected_segments,
        "margin": (row["margin"] or 0.0) if margin else 0.0,
    }


def _mixed(rows: Rows, mix: str) -> Iterator[PairRow | RatingRow]:
    """The training rows; with `even`, those of languages that have fewer are repeated in turn."""
    by_language: defaultdict[str, list[PairRow | RatingRow]] = defaultdict(list)
    for row in rows:
        by_language[row["lang"]].append(row)
    most = max(map(len, by_language.values()))
    for own in by_language.values():
        count = most if mix == "even" else len(own)
        yield from (own[n % len(own)] for n in range(count))


def _measure(
    run: Path, config: RewardModelConfig, inputs: RewardInputs, machine: Machine, counts: Mapping[str, object]
) -> Fields:
    """Accuracy of the exported model on the validation rows, and its card.

    Raises:
        UserError: it gives every response the same score.
    """
    if (run / RESULT).is_file():
        result: Fields = read_json(run / RESULT)
        return result
    scorer = Scorer(machine, str(run / "model"), machine.precision("auto"), run / "scores")
    languages = measure(scorer, inputs.data.kind, inputs.validation, inputs.train)
    scores = scorer.scores([text for row in inputs.validation for text in _texts(row)])
    known = [score for score in scores if score is not None]
    if known and max(known) - min(known) < SAME_SCORE:
        raise UserError(
            "the reward model gives every response the same score",
            where=str(run / "model"),
            do="lower train.learning_rate, and look at metrics.jsonl",
        )
    result = {"loss": inputs.loss, "training": dict(counts), "languages": languages}
    write_json(run / RESULT, result)
    write_reward_card(run / "model", config, inputs.loss, languages, result)
    return result
