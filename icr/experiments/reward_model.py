"""`icr rm train`: from preference data to a classifier, with its accuracy beside baselines."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from eval.reward_models.scoring import Scorer, measure_known, score_rows
from icr.base.content import hash_file, identify_model
from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.files import read_json, sweep, write_json, write_text
from icr.base.lock import RunLock
from icr.base.rundir import StageRecord
from icr.base.shown import show_path
from icr.config.load import dump_config, flatten
from icr.config.reward_model import RewardModelConfig
from icr.config.sft import SftConfig
from icr.engines.check import find_folder
from icr.engines.sizes import measure_checkpoint
from icr.experiments.reward_card import METHOD, TAG, write_reward_card
from icr.experiments.reward_inputs import OBJECTIVES, Base, RewardInputs, check_base, check_inputs, plain_train
from icr.experiments.reward_rows import write_data
from icr.rounds.facts import find_versions
from icr.work.machine import Machine
from icr.work.settings import OPERATIONAL, USES
from icr.work.steps import Step, stale, stamp
from loops.disk import check_disk, estimate_disk, folder_size
from loops.spec import CardFacts, TrainSpec
from prompts.preferences.make import TRAIN, VALIDATION

if TYPE_CHECKING:
    from rich.console import Console

CONFIG, RECORD, RESULT, SCORES = "config.yaml", "step.json", "validation.json", "scores"
WORK = (
    "tokens", "data.parquet", "dropped.json", "metrics.jsonl", "validation.jsonl", "counts.json", "checkpoints", "best",
    SCORES, "model", "adapter", "start.json", "restarted.json", RESULT,
)  # fmt: skip
"""What a training leaves in RUN."""
INPUTS = ("run", "base", "chat_template", "data.path")
"""Keys that name an input of the training, which is known by its content."""
SAME_SCORE = 1e-9
LAST_STEPS = 20
"""Optimiser steps that the training loss is averaged over."""


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
    if (finished := read_finished(run, config, inputs)) is not None:
        return finished
    lock = RunLock(run / ".lock")
    sweep(run)
    machine = Machine(run, console, [lock.fd])
    try:
        return _train_and_measure(run, config, inputs, machine)
    finally:
        machine.stop()
        lock.release()


def train_on(machine: Machine, config: RewardModelConfig, inputs: RewardInputs) -> Fields:
    """`train_reward_model` on a machine that others use as well.

    Raises:
        ConfigError, UserError, StageFailed: as there.
    """
    run = Path(config.run or "").resolve()
    if (finished := read_finished(run, config, inputs)) is not None:
        return finished
    lock = RunLock(run / ".lock")
    try:
        return _train_and_measure(run, config, inputs, machine)
    finally:
        lock.release()


def _train_and_measure(run: Path, config: RewardModelConfig, inputs: RewardInputs, machine: Machine) -> Fields:
    base = Path(machine.folders({inputs.base}, config.chat_template)[inputs.base])
    read_as = check_base(base, config, inputs.loss)
    record = _begin(run, config, inputs, machine)
    started = time.monotonic()
    record.counts = _train(run, config, inputs, base, read_as, machine)
    result: Fields = _measure(run, config, inputs, machine, record.counts)
    record.state, record.finished = "done", time.time()
    record.seconds += time.monotonic() - started
    write_json(run / RECORD, record.model_dump(mode="json"))
    return result


def read_finished(run: Path, config: RewardModelConfig, inputs: RewardInputs) -> Fields | None:
    """What RUN/validation.json has of a finished training of these files and settings; None where there is none."""
    if not ((run / RECORD).is_file() and (run / RESULT).is_file()):
        return None
    record = StageRecord.model_validate(read_json(run / RECORD))
    if record.state != "done" or stale(describe_training(config, inputs.base), record):
        return None
    result: Fields = read_json(run / RESULT)
    return result


def describe_training(config: RewardModelConfig | SftConfig, base: str) -> Step:
    """A training on `data.path` as a step: what its result depends on. `base`: located."""
    data = Path(config.data.path)
    named = {"base": identify_model(base)}
    named |= {"training data": hash_file(data / TRAIN), "validation data": hash_file(data / VALIDATION)}
    if config.chat_template:
        named["chat template"] = hash_file(Path(config.chat_template))
    settings = {key: value for key, value in flatten(config).items() if key not in INPUTS and not may_change(key)}
    return Step("train", named, settings)


def may_change(key: str) -> bool:
    """Whether a key of the config may change at any restart: the result does not depend on it."""
    return USES.get(key) == (OPERATIONAL,) if key.startswith("train.") else False


def _begin(run: Path, config: RewardModelConfig, inputs: RewardInputs, machine: Machine) -> StageRecord:
    """The record of the training; what an earlier one of other files left unfinished is removed.

    Raises:
        UserError: the folder holds a finished training of other files, or one with other settings.
    """
    step = describe_training(config, inputs.base)
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
    record = stamp(step, before or StageRecord(state="running", started=time.time(), versions=find_versions()))
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
    size = measure_checkpoint(str(base))
    if size is not None and not (run / "model").exists():
        check_disk(estimate_disk(train, size), run, folder_size(run / "checkpoints") + folder_size(run / "best"))
    if not (run / "model").exists() and not (data.is_file() and dropped.is_file()):
        write_json(dropped, write_data(run, config, inputs, base, read_as, machine))
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
    counts = machine.train(spec, f"training ({inputs.loss} reward model)", run.name)
    return {**counts, "too_long": read_json(dropped)}


def _describe_gap(run: Path, counts: Fields) -> Fields:
    """Loss and accuracy of the training, over the last steps up to the exported model, and of its validation."""
    from loops.callbacks import read_metrics

    step = counts["validation"]["step"]
    steps = [row for row in read_metrics(run / "metrics.jsonl") if row["step"] <= step][-LAST_STEPS:]
    validated = next(row for row in read_metrics(run / "validation.jsonl") if row["step"] == step)
    names = {"loss": "loss", "accuracy": "rewards/accuracies"}
    training = {name: fmean(row[key] for row in steps) for name, key in names.items()}
    return {"training": training, "validation": {name: validated[key] for name, key in names.items()}}


def _measure(run: Path, config: RewardModelConfig, inputs: RewardInputs, machine: Machine, counts: Fields) -> Fields:
    """Accuracy of the exported model on the validation rows, and its card.

    Raises:
        UserError: it gives every response the same score.
    """
    scorer = Scorer(machine, str(run / "model"), machine.precision("auto"), run / SCORES)
    scores = score_rows(scorer, inputs.data.kind, inputs.validation)
    measured = measure_known(scores, inputs.data.kind, inputs.validation, inputs.train)
    languages = {lang: of_lang.figures for lang, of_lang in measured.items()}
    known = [score for score in scores.values() if score is not None]
    if known and max(known) - min(known) < SAME_SCORE:
        raise UserError(
            "the reward model gives every response the same score",
            where=str(run / "model"),
            do="lower train.learning_rate, and look at metrics.jsonl",
        )
    gap = _describe_gap(run, counts)
    result = {"loss": inputs.loss, "training": dict(counts), "gap": gap, "languages": languages}
    write_json(run / RESULT, result)
    write_reward_card(run / "model", config, inputs.loss, languages, result)
    return result
