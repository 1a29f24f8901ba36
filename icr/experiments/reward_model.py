"""`icr rm train`: from preference data to a classifier, with its accuracy beside baselines."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from eval.reward_models.scoring import Known, Scorer, measure_known, score_rows
from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.files import read_json, write_json, write_text
from icr.base.shown import show_path
from icr.config.load import dump_config
from icr.config.reward_model import RewardModelConfig
from icr.engines.check import find_folder
from icr.engines.sizes import measure_checkpoint
from icr.experiments.reward_card import METHOD, TAG, write_reward_card
from icr.experiments.reward_inputs import OBJECTIVES, Base, RewardInputs, check_base, check_inputs, plain_train
from icr.experiments.reward_rows import texts, write_data
from icr.experiments.training import describe_training, train_once
from icr.work.machine import Machine
from icr.work.steps import Step
from loops.disk import check_disk, estimate_disk, folder_size
from loops.spec import CardFacts, TrainSpec
from prompts.preferences.make import Rows

if TYPE_CHECKING:
    from rich.console import Console

CONFIG, RESULT, SCORES = "config.yaml", "validation.json", "scores"
LEAVES = (
    "tokens", "data.parquet", "left_out.json", "metrics.jsonl", "validation.jsonl", "counts.json", "checkpoints",
    "best", SCORES, "model", "adapter", "start.json", "restarted.json", RESULT,
)  # fmt: skip
"""What a training leaves in RUN."""
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

    def describe() -> Step:
        return describe_training(config, inputs.base)

    def work(machine: Machine) -> Fields:
        return do_reward_model(run, config, inputs, machine)

    return train_once(run, console, describe, work, RESULT, LEAVES)


def do_reward_model(run: Path, config: RewardModelConfig, inputs: RewardInputs, machine: Machine) -> Fields:
    """The training's work in the folder `run`, on a machine that others may use as well; returns its counts."""
    base = Path(machine.folders({inputs.base}, config.chat_template)[inputs.base])
    read_as = check_base(base, config, inputs.loss)
    write_text(run / CONFIG, dump_config(config, run))
    counts = _train(run, config, inputs, base, read_as, machine)
    _measure(run, config, inputs, machine, counts)
    return counts


def _train(
    run: Path, config: RewardModelConfig, inputs: RewardInputs, base: Path, read_as: Base, machine: Machine
) -> Fields:
    """Tokens, then the training; returns its counts."""
    train = plain_train(config)
    train = train.model_copy(update={"precision": machine.precision(train.precision)})
    data, left_out = run / "data.parquet", run / "left_out.json"
    size = measure_checkpoint(str(base))
    if size is not None and not (run / "model").exists():
        check_disk(estimate_disk(train, size), run, folder_size(run / "checkpoints") + folder_size(run / "best"))
    if not (run / "model").exists() and not (data.is_file() and left_out.is_file()):
        write_json(left_out, write_data(run, config, inputs, base, read_as, machine))
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
    return {**counts, **read_json(left_out)}


def _describe_gap(run: Path, counts: Fields) -> Fields:
    """Loss and accuracy of the training, over the last steps up to the exported model, and of its validation."""
    from loops.callbacks import read_metrics

    step = counts["validation"]["step"]
    steps = [row for row in read_metrics(run / "metrics.jsonl") if row["step"] <= step][-LAST_STEPS:]
    validated = next(row for row in read_metrics(run / "validation.jsonl") if row["step"] == step)
    names = {"loss": "loss", "accuracy": "rewards/accuracies"}
    training = {name: fmean(row[key] for row in steps) for name, key in names.items()}
    return {"training": training, "validation": {name: validated[key] for name, key in names.items()}}


def refuse_equal(scores: Known, rows: Rows, model: Path) -> None:
    """Raises UserError where all responses of a language, of which there are several, have one score."""
    blind = []
    for lang in sorted({row["lang"] for row in rows}):
        responses = {text for row in rows if row["lang"] == lang for text in texts(row)}
        known = [score for text in responses if (score := scores[text]) is not None]
        if len(known) > 1 and max(known) - min(known) < SAME_SCORE:
            blind.append(lang)
    if blind:
        raise UserError(
            f"the reward model gives every response in {', '.join(blind)} the same score",
            where=str(model),
            do="lower train.learning_rate, and look at metrics.jsonl",
        )


def _measure(run: Path, config: RewardModelConfig, inputs: RewardInputs, machine: Machine, counts: Fields) -> None:
    """RUN/validation.json: accuracy of the exported model on the validation rows; and the model's card.

    Raises:
        UserError: it gives every response of a language the same score.
    """
    scorer = Scorer(machine, str(run / "model"), machine.precision("auto"), run / SCORES)
    scores = score_rows(scorer, inputs.data.kind, inputs.validation)
    measured = measure_known(scores, inputs.data.kind, inputs.validation, inputs.train)
    languages = {lang: of_lang.figures for lang, of_lang in measured.items()}
    refuse_equal(scores, inputs.validation, run / "model")
    gap = _describe_gap(run, counts)
    result = {"loss": inputs.loss, "training": dict(counts), "gap": gap, "languages": languages}
    write_json(run / RESULT, result)
    write_reward_card(run / "model", config, inputs.loss, languages, result)
