"""`python -m torch.distributed.run --nproc-per-node P -m loops.train SPEC.json`: one training, from data file to model.

With one process it also runs as `python -m loops.train SPEC.json`. Killed at any moment and started again, it goes on
from its last complete checkpoint, on a CPU to the very same weights.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, field_validator

from icr.config import Train
from icr.errors import UserError, explain_os_error
from icr.launch import die_with_parent
from icr.progress import EventFile
from loops.checkpoints import Checkpoints
from loops.data import Schedule, lay_out
from loops.kto import KTO
from loops.objective import Objective, PairObjective, make_objective
from loops.settings import base_folder, load_policy, lora_config, trainer_settings

if TYPE_CHECKING:
    from loops.trainers import RoundTrainer


class TrainSpec(BaseModel):
    """What one training is asked to do."""

    model: str
    """π_θ^{t-1}, which is trained on: a folder or a hub id."""
    data: Path
    """Written by `loops.data.write_training_data`."""
    output: Path
    """The final model; it appears whole. A training whose output exists is done."""
    work: Path
    """For `checkpoints/`, removed in the end, and `metrics.jsonl`."""
    events: Path
    """Where progress, the result or an error is told, see `icr.progress`."""
    objective: str = "dpo"
    train: Train = Train()
    chat_template: Path | None = None
    """`models.chat_template`: goes into the final model in place of the base's."""
    facts: dict[str, Any] = {}
    """For the model card, see `loops.export.write_model_card`."""

    @field_validator("train")
    @classmethod
    def _decided(cls, train: Train) -> Train:
        if train.precision == "auto":
            raise ValueError("the caller decides on a precision, because the reference is scored in the same one")
        return train


def run(spec: TrainSpec, events: EventFile) -> dict[str, Any]:
    """Train, or go on training, and write the model; to be called on every rank. Returns the stage's counts.

    Raises UserError for what the user can mend: settings that do not fit together, an objective that cannot be made,
    a checkpoint of another number of processes, too little GPU memory, a loss that is no number.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    first = int(os.environ.get("RANK", "0")) == 0
    objective = make_objective(spec.objective, beta=spec.train.beta, nll_weight=spec.train.nll_weight)
    base = base_folder(spec.model)
    schedule = plan(spec, objective, base, processes)
    counts = {
        "pairs": schedule.rows // objective.rows_per_pair,
        "rows": schedule.rows,
        "dropped_too_long": schedule.dropped_too_long,
        "steps": schedule.steps,
        "objective": spec.objective,
        "processes": processes,
        "deepspeed": spec.train.deepspeed,
        "precision": spec.train.precision,
    }
    checkpoints = Checkpoints(spec.work / "checkpoints", processes)
    if spec.output.exists():
        if first:
            shutil.rmtree(checkpoints.path, ignore_errors=True)
        return counts
    resume = checkpoints.newest()
    if first:
        checkpoints.path.mkdir(parents=True, exist_ok=True)
        checkpoints.delete_incomplete()
        for left in spec.output.parent.glob(f".{spec.output.name}.*.tmp"):
            shutil.rmtree(left)  # of an export that was killed
    trainer = build_trainer(spec, objective, base, schedule, checkpoints, events)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    _export(spec, trainer, base)
    trainer.accelerator.wait_for_everyone()
    if first:
        shutil.rmtree(checkpoints.path)
    return counts


def plan(spec: TrainSpec, objective: Objective, base: Path, processes: int) -> Schedule:
    """Check the settings against each other and lay out the training. `train.batch_size` counts pairs."""
    from icr.models import context_length

    return lay_out(
        spec.data,
        context=context_length(str(base)),
        epochs=spec.train.epochs,
        batch_rows=spec.train.batch_size * objective.rows_per_pair,
        micro_rows=spec.train.micro_batch_size,
        processes=processes,
        seed=spec.train.seed,
    )


def build_trainer(
    spec: TrainSpec,
    objective: Objective,
    base: Path,
    schedule: Schedule,
    checkpoints: Checkpoints,
    events: EventFile,
) -> RoundTrainer:
    """Model, data and settings, put into the trainer of the objective's kind."""
    from datasets import Dataset
    from transformers import AutoTokenizer, PrinterCallback
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.kto_config import KTOConfig

    from loops.callbacks import MetricsFile, Progress
    from loops.trainers import AnswerTrainer, PairTrainer, WeightedAnswers, WeightedPairs

    pairs = isinstance(objective, PairObjective)
    settings = trainer_settings(spec.train, schedule, checkpoints.path)
    try:
        # made before the model: with ZeRO-3 it is what makes from_pretrained share out the weights
        # TRL refuses KTO on micro-batches of one row, where its own estimate of the KL would be void. Ours is over the
        # whole optimiser step, so the refusal is avoided by naming the loss that has no KL; TRL's loss is not used.
        args = DPOConfig(**settings) if pairs else KTOConfig(**settings, loss_type="apo_zero_unpaired")
    except ValueError as error:
        raise UserError(str(error), where="train", do="correct the setting") from error
    if spec.train.deepspeed != "none":
        import deepspeed

        deepspeed.init_distributed(auto_mpi_discovery=False)  # ZeRO-3 shares out the weights while they are loaded
    tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    collator = (WeightedPairs if pairs else WeightedAnswers)(pad_token_id=tokenizer.pad_token_id)
    kwargs: dict[str, Any] = {
        "schedule": schedule,
        "checkpoints": checkpoints,
        "model": load_policy(spec.train, base),
        "args": args,
        "train_dataset": Dataset(schedule.table, fingerprint="icr"),  # else the data are hashed for a name
        "processing_class": tokenizer,
        "data_collator": collator,
        "peft_config": lora_config(spec.train),
        "callbacks": [Progress(events, schedule), MetricsFile(spec.work / "metrics.jsonl")],
    }
    trainer: RoundTrainer
    if isinstance(objective, KTO):
        desirable = sum(schedule.table.filter(schedule.table["weight"].to_numpy() > 0)["label"].to_pylist())
        objective.set_counts(desirable, sum(schedule.table["weight"].to_numpy() > 0) - desirable)
        trainer = AnswerTrainer(objective=objective, **kwargs)
    elif isinstance(objective, PairObjective):
        trainer = PairTrainer(objective=objective, **kwargs)
    else:
        raise UserError(
            f"there is no trainer for {type(objective).__name__}",
            where=f"objective: {spec.objective}",
            do="derive it from loops.objective.PairObjective",
        )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _export(spec: TrainSpec, trainer: Any, base: Path) -> None:
    from loops.export import merged_weights, trained_weights, write_model

    first = trainer.is_world_process_zero()
    model = trainer.accelerator.unwrap_model(trainer.model)
    weights = trained_weights(model, keep=first)
    if not first:
        return
    if spec.train.lora is not None:
        weights = merged_weights(base, lora_config(spec.train), weights)
        model = model.get_base_model()
    template = spec.chat_template.read_text(encoding="utf-8") if spec.chat_template else None
    write_model(spec.output, base, model, weights, spec.facts, template)


def _prepare_process(spec: TrainSpec) -> None:
    """What has to be set before the heavy imports read it."""
    import torch

    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # TRL pings home at the start of a training otherwise
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    if spec.train.deepspeed == "none":
        return
    import deepspeed.ops

    if not torch.cuda.is_available():
        # by default DeepSpeed compiles (a minute, and with a compiler that may not be there) an all-reduce for
        # inference that training never calls
        deepspeed.ops.__compatible_ops__ = {}
    if "RANK" not in os.environ:
        # DeepSpeed wants a process group, even of one
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        one = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in one.items()})


def _leave(first: bool) -> None:
    """End the process group; processes besides the first are over here and now.

    They have nothing left to do, and their native threads, torn down in whatever order, abort the process now and then,
    for which torchrun would end the first one, too. That one goes on to its exit handlers, which trackers need.
    """
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if not first:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def main() -> int:
    die_with_parent()
    spec = TrainSpec.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    first = int(os.environ.get("RANK", "0")) == 0
    events = EventFile(spec.events)
    try:
        _prepare_process(spec)
        counts = run(spec, events)
        if first:
            events.send(event="done", counts=counts)
        _leave(first)
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
