"""Our settings in the words of transformers, TRL, DeepSpeed and peft, and the policy loaded as they ask for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from icr.base.errors import UserError
from icr.config.schema import CONFIGS, Train
from loops.data import Schedule


def trainer_settings(train: Train, schedule: Schedule, output: Path) -> dict[str, Any]:
    """Keyword arguments of TRL's DPOConfig and KTOConfig; checkpoints go to `output`. Raises UserError."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "output_dir": str(output),
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


def base_folder(model: str) -> Path:
    """The folder of a model: itself, or the hub's in the local cache."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]))


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
