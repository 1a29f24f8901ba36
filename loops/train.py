"""`python -m loops.train SPEC.json`: one training, from data file to model.

With several processes, under `python -m torch.distributed.run --nproc-per-node P -m loops.train SPEC.json`. Killed at
any moment and started again, it continues from its last complete checkpoint, on a CPU to exactly the same weights.
"""

from __future__ import annotations

import os
import shutil
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from icr.base.errors import UserError, explain_os_error
from icr.base.files import read_json, write_json
from icr.base.process import die_with_parent
from icr.base.progress import EventFile
from loops.best import Best, Score
from loops.checkpoints import Checkpoints, result_settings
from loops.checks import check_optimizer, check_scheduler
from loops.data import Schedule, Split, lay_out
from loops.families import Family, family_of
from loops.finish import export_or_save
from loops.micro_batch import settle_micro_batch
from loops.objective import Objective, make_objective
from loops.process import leave, prepare_process
from loops.settings import base_folder, load_model, micro_rows, trainer_settings
from loops.spec import TrainSpec
from loops.start import Start, can_compare, check_start, describe_start, read_start, write_start

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from loops.trainers import RoundTrainer

S = TypeVar("S", bound=TrainSpec)


def run(spec: TrainSpec, events: EventFile) -> dict[str, object]:
    """Train, or continue training, and write the model; called on every rank. Returns the stage's counts.

    A training that cannot continue from its checkpoint starts over, says so, and counts it as `restarted`.

    Raises UserError for what the user can fix: settings that do not fit together, an objective that cannot be created,
    too little GPU memory, a loss that is not a number.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    first = int(os.environ.get("RANK", "0")) == 0
    if spec.output.exists() and _counts_file(spec).exists():
        if first:
            delete_work(spec)
        counts: dict[str, object] = read_json(_counts_file(spec))
        return counts
    checkpoints = Checkpoints(spec.work / "checkpoints", processes, result_settings(spec))
    best = Best(spec.work / "best")
    objective = make_objective(spec.objective, beta=spec.train.beta, nll_weight=spec.train.nll_weight)
    objective.configure(spec.settings)
    family = family_of(objective)
    base = base_folder(spec.model)
    spec = settle_micro_batch(spec, family, base, processes)
    schedule = plan(spec, family, base, processes)
    if spec.output.exists():  # by a version that wrote no counts
        if first:
            delete_work(spec)
        return _counts(spec, family, schedule, processes, None)
    obstacle, resume = checkpoints.obstacle(), checkpoints.newest()
    if first:
        prepare_work(spec, checkpoints, best)
    trainer = build_trainer(spec, family, base, schedule, checkpoints, events)
    trainer.accelerator.wait_for_everyone()  # every rank has looked at the checkpoints
    if obstacle and first:
        start_over(spec, checkpoints, events, obstacle)
    if resume is None:
        best.forget(delete=first)  # the training begins at its first step
        if first:
            _start_file(spec).unlink(missing_ok=True)
        trainer.on_start = partial(_look_at_start, spec, events) if can_compare(spec.train) else None
    write = partial(export_or_save, spec, trainer, base, family)
    if schedule.validation is not None:
        trainer.add_callback(_keep_best(best, write, spec.best_by))
        if spec.answer_tokens is not None:
            from loops.answers import GreedyAnswers

            trainer.look_further = GreedyAnswers(spec, base)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    counts = _counts(spec, family, schedule, processes, best.score)
    if first:
        _add_figures(spec, counts)
        write_json(_counts_file(spec), counts)
    if schedule.validation is None:
        write(spec.output)
    elif first:
        best.move_to(spec.output)
    trainer.accelerator.wait_for_everyone()
    if first:
        delete_work(spec)
    return counts


def _look_at_start(spec: TrainSpec, events: EventFile, start: Start) -> None:
    """Before the first step policy and reference are one model; called on every rank with the same figures."""
    if int(os.environ.get("RANK", "0")) == 0:
        write_start(_start_file(spec), start)
        if text := describe_start(start):
            events.note(text)
    check_start(start)


def _start_file(spec: TrainSpec) -> Path:
    """How far policy and reference are apart before the first step."""
    return spec.work / "start.json"


def _counts_file(spec: TrainSpec) -> Path:
    """Written just before the output appears, for a caller that was killed in between."""
    return spec.work / "counts.json"


def _restarted_file(spec: TrainSpec) -> Path:
    """Says that the training was started over, until it is done."""
    return spec.work / "restarted.json"


def _counts(
    spec: TrainSpec, family: Family[Objective], schedule: Schedule, processes: int, best: Score | None
) -> dict[str, object]:
    counts: dict[str, object] = {
        "pairs": schedule.rows // family.objective.rows_per_pair,
        "rows": schedule.rows,
        "dropped_too_long": schedule.dropped_too_long,
        "steps": schedule.steps,
        "objective": spec.objective,
        "processes": processes,
        "deepspeed": spec.train.deepspeed,
        "precision": spec.train.precision,
        "micro_batch_size": micro_rows(spec.train),
    }
    if best is not None:
        counts["validation"] = {"rows": schedule.validation_rows, **best}
    if (start := read_start(_start_file(spec))) is not None:
        counts["start"] = start
    if _restarted_file(spec).exists():
        counts["restarted"] = read_json(_restarted_file(spec))
    return counts


def _add_figures(spec: TrainSpec, counts: dict[str, object]) -> None:
    """Where the model is not chosen by its loss, put what it was chosen by beside its loss."""
    from loops.callbacks import read_metrics

    chosen = counts.get("validation")
    if not isinstance(chosen, dict) or spec.best_by == "loss":
        return
    row = next(row for row in read_metrics(spec.work / "validation.jsonl") if row["step"] == chosen["step"])
    chosen |= {"loss": row["loss"], spec.best_by: row[spec.best_by], "answered": int(row["answered"])}


def prepare_work(spec: TrainSpec, checkpoints: Checkpoints, best: Best) -> None:
    """Clear away what a killed process left half-written."""
    checkpoints.path.mkdir(parents=True, exist_ok=True)
    checkpoints.delete_incomplete()
    best.delete_incomplete()
    for left in spec.output.parent.glob(f".{spec.output.name}.*.tmp"):
        shutil.rmtree(left)  # of an export that was killed


def start_over(spec: TrainSpec, checkpoints: Checkpoints, events: EventFile, obstacle: str) -> None:
    """Delete the checkpoints, and say so."""
    steps = checkpoints.steps_done()
    events.note(f"the training starts over; {steps} optimiser steps are lost: {obstacle}")
    write_json(_restarted_file(spec), {"why": obstacle, "steps_lost": steps})
    checkpoints.delete_all()


def delete_work(spec: TrainSpec) -> None:
    """Delete what nobody needs once the output is there."""
    for name in ("checkpoints", "best"):
        shutil.rmtree(spec.work / name, ignore_errors=True)


def plan(spec: TrainSpec, family: Family[Objective], base: Path, processes: int) -> Schedule:
    """Check the settings against each other and lay out the training. `batch_size` and `validation` count pairs."""
    from icr.engines.context import context_length

    train, rows = spec.train, family.objective.rows_per_pair
    check_optimizer(train)
    check_scheduler(train)
    return lay_out(
        spec.data,
        answers=family.answers,
        context=context_length(str(base)),
        epochs=train.epochs,
        split=Split(train.batch_size * rows, micro_rows(train), processes),
        seed=train.seed,
        validation=train.validation * (rows if train.validation >= 1 else 1),
        by_length=family.by_length,
    )


def build_trainer(
    spec: TrainSpec,
    family: Family[Objective],
    base: Path,
    schedule: Schedule,
    checkpoints: Checkpoints,
    events: EventFile,
) -> RoundTrainer[Objective]:
    """Model, data and settings, put into the family's trainer."""
    from transformers import PrinterCallback, TrainingArguments

    settings = trainer_settings(spec.train, schedule, checkpoints.path)
    try:
        # made before the model: with ZeRO-3 it is what makes from_pretrained share out the weights
        args = TrainingArguments(**settings)
    except ValueError as error:
        raise UserError(str(error), where="train", do="correct the setting") from error
    if args.n_gpu > 1:
        args._n_gpu = 1  # one process is one GPU, also where it sees several
    if spec.train.deepspeed != "none":
        import deepspeed

        deepspeed.init_distributed(auto_mpi_discovery=False)  # ZeRO-3 shares out the weights while they are loaded
    family.look_at(schedule.trained_rows())
    trainer = family.trainer()(
        objective=family.objective,
        schedule=schedule,
        checkpoints=checkpoints,
        model=load_model(spec.train, base, family),
        args=args,
        data_collator=family.collate,
        callbacks=_callbacks(spec, schedule, events),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _callbacks(spec: TrainSpec, schedule: Schedule, events: EventFile) -> list[TrainerCallback]:
    from loops.callbacks import MetricsFile, Progress, SaveByTime, StopEarly, ValidationFile

    callbacks: list[TrainerCallback] = [
        Progress(events, lambda state: schedule.tokens[state.global_step]),
        MetricsFile(spec.work / "metrics.jsonl"),
    ]
    if schedule.validation is not None:
        callbacks.append(ValidationFile(spec.work / "validation.jsonl"))
        if spec.patience is not None:
            callbacks.append(StopEarly(spec.patience, spec.work / "validation.jsonl", spec.best_by))
    if spec.train.save_steps is None:
        callbacks.append(SaveByTime(spec.train.save_minutes))
    return callbacks


def _keep_best(best: Best, write: Callable[[Path], None], by: str) -> TrainerCallback:
    from loops.callbacks import KeepBest

    return KeepBest(best, write, by)


def main() -> int:
    return train_process(TrainSpec, run)


def train_process(kind: type[S], work: Callable[[S, EventFile], dict[str, object]]) -> int:
    """The whole life of a training's process, on every rank: what it is asked to do, its work, and how it ends.

    Args:
        kind: of the specification, whose file is the program's argument.
    """
    die_with_parent()
    spec = kind.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    first = int(os.environ.get("RANK", "0")) == 0
    events = EventFile(spec.events)
    try:
        prepare_process(spec.train)
        counts = work(spec, events)
        if first:
            events.send(event="done", counts=counts)
        leave(exit_handlers=first and spec.train.report_to != "none")
        return 0
    except UserError as error:
        user = error
    except OSError as error:
        traceback.print_exc()
        known = explain_os_error(error)
        if known is None:
            events.send(event="error", kind="crash", text=f"{type(error).__name__}: {error}")
            return 1
        user = known
    except Exception as error:  # the process ends here: the log has the traceback, the controller the reason
        traceback.print_exc()
        if type(error).__name__ != "OutOfMemoryError":
            events.send(event="error", kind="crash", text=f"{type(error).__name__}: {error}")
            return 1
        user = UserError(
            "the GPU's memory is too small for this training",
            where="train",
            do="lower train.micro_batch_size, keep train.gradient_checkpointing, set train.deepspeed to zero3, "
            "or train.lora",
        )
    events.send(event="error", kind="user", text=str(user), what=user.what, where=user.where, do=user.do)
    return 2


if __name__ == "__main__":
    sys.exit(main())
