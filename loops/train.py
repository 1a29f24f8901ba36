"""`python -m torch.distributed.run --nproc-per-node P -m loops.train SPEC.json`: one training, from data file to model.

With one process it also runs as `python -m loops.train SPEC.json`. Killed at any moment and started again, it goes on
from its last complete checkpoint, on a CPU to the very same weights.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, field_validator

from icr.config import CONFIGS, Train
from icr.errors import UserError, explain_os_error
from icr.launch import die_with_parent
from icr.progress import EventFile
from loops.checkpoints import Checkpoints
from loops.data import Schedule, lay_out
from loops.kto import KTO
from loops.objective import Objective, PairObjective, make_objective

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

    micro = spec.train.micro_batch_size
    if micro < objective.smallest_micro_batch:
        raise UserError(
            f"{spec.objective} needs a micro-batch of {objective.smallest_micro_batch} or more, not {micro}",
            where="train.micro_batch_size",
            do=f"set train.micro_batch_size to {objective.smallest_micro_batch} or more",
        )
    return lay_out(
        spec.data,
        context=context_length(str(base)),
        epochs=spec.train.epochs,
        batch_rows=spec.train.batch_size * objective.rows_per_pair,
        micro_rows=micro,
        processes=processes,
        seed=spec.train.seed,
    )


def base_folder(model: str) -> Path:
    """The folder of a model: itself, or the hub's in the local cache."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]))


def deepspeed_config(name: str) -> dict[str, Any] | None:
    """`zero2`, `zero3`, `none`, or a user's JSON file, read. Raises UserError."""
    if name == "none":
        return None
    path = CONFIGS / "deepspeed" / f"{name}.json" if name in ("zero2", "zero3") else Path(name)
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"the DeepSpeed config cannot be read: {error}",
            where=f"train.deepspeed: {name}",
            do="write zero2, zero3, none, or the path of a JSON file",
        ) from error
    return config


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
    settings = trainer_settings(spec, schedule, checkpoints)
    try:
        # made before the model: with ZeRO-3 it is what makes from_pretrained share out the weights
        args = DPOConfig(**settings) if pairs else KTOConfig(**settings)
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


def trainer_settings(spec: TrainSpec, schedule: Schedule, checkpoints: Checkpoints) -> dict[str, Any]:
    """Our settings in the words of transformers and TRL."""
    import torch

    train, cuda = spec.train, torch.cuda.is_available()
    return {
        "output_dir": str(checkpoints.path),
        "per_device_train_batch_size": train.micro_batch_size,
        "gradient_accumulation_steps": schedule.accumulation,
        "num_train_epochs": 1,  # the schedule holds all passes
        "train_sampling_strategy": "sequential",
        "learning_rate": train.learning_rate,
        "lr_scheduler_type": train.scheduler,
        # rounded down: rounded up, a training of a few steps would spend its first one at a rate of 0
        "warmup_steps": int(train.warmup_ratio * schedule.steps),
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "beta": train.beta,
        "bf16": train.precision == "bf16",
        "gradient_checkpointing": train.gradient_checkpointing,
        "deepspeed": deepspeed_config(train.deepspeed),
        "ddp_find_unused_parameters": False,
        "max_length": None,  # TRL's default would cut at 1024 tokens and say nothing
        "precompute_ref_log_probs": True,  # so that no reference model is loaded; the data file has them
        "disable_dropout": False,  # it would take LoRA's dropout, too; `load_policy` removes the model's own
        "remove_unused_columns": False,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # it would log the mean of earlier losses instead
        "save_strategy": "steps",
        "save_steps": train.save_steps,
        "save_total_limit": None,  # older ones go when the new one has its marker, see loops.checkpoints
        "seed": train.seed,
        "report_to": trackers(train.report_to),
        "disable_tqdm": True,
        "use_cpu": not cuda,
        "dataloader_pin_memory": cuda,
    }


def trackers(report_to: str) -> list[str]:
    """`train.report_to`, taken apart. Raises UserError for a tracker that is unknown or not installed."""
    names = [name.strip() for name in report_to.split(",") if name.strip() not in ("", "none")]
    if not names:
        return []
    from transformers import integrations

    there = integrations.get_available_reporting_integrations()  # type: ignore[no-untyped-call, attr-defined]
    for name in names:
        if name not in there:
            raise UserError(
                f"there is no tracker {name} here",
                where=f"train.report_to: {report_to}",
                do=f"install it, or write none{' or ' + ', '.join(there) if there else ''}",
            )
    return names


def load_policy(train: Train, base: Path) -> Any:
    """The model to train.

    bf16 under DeepSpeed: weights in bf16, beside which it keeps a master copy in fp32. bf16 without it: weights in
    fp32 and computation in bf16 (autocast), because steps of 5e-7 vanish when they are added to bf16 weights. Frozen
    weights (LoRA) take no steps, and are in bf16 in any case.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from trl.trainer.utils import disable_dropout_in_model

    bf16 = train.precision == "bf16" and (train.deepspeed != "none" or train.lora is not None)
    made: Any = AutoModelForCausalLM.from_pretrained(
        base,
        dtype=torch.bfloat16 if bf16 else torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    model, loaded = made
    for kind in ("missing_keys", "unexpected_keys"):
        if loaded[kind]:
            names = sorted(loaded[kind])
            raise UserError(
                f"the checkpoint does not fit its architecture: {len(names)} {kind.replace('_', ' ')}, "
                f"the first: {names[0]}",
                where=str(base),
                do="train from a checkpoint that save_pretrained wrote",
            )
    disable_dropout_in_model(model)
    return model


def lora_config(train: Train) -> Any:
    """peft's config of the adapter, or None."""
    if train.lora is None:
        return None
    from peft import LoraConfig

    lora = train.lora
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
    )


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
