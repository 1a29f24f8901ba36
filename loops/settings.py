"""Our settings in the words of transformers, TRL, DeepSpeed and peft, and the policy loaded as they ask for it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icr.base.errors import UserError, some
from icr.config.schema import Train
from icr.engines.attention import find_attention
from icr.engines.precision import weights_of
from icr.engines.weights import read_headers
from loops.checks import dropout_settings, trackers
from loops.data import Schedule
from loops.deepspeed_json import read_deepspeed
from loops.numerics import training_numerics

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

    from loops.families import Family
    from loops.objective import Objective


HEADS = ("score", "classifier")
"""Modules of a classifier that peft trains whole beside an adapter."""


def trainer_settings(train: Train, schedule: Schedule, output: Path) -> dict[str, Any]:
    """Keyword arguments of transformers' TrainingArguments; checkpoints go to `output`. Raises UserError."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        **_validation_settings(train, schedule),
        **({"optim": "adafactor"} if train.optimizer == "adafactor" else {}),
        "output_dir": str(output),
        "per_device_train_batch_size": micro_rows(train),
        "gradient_accumulation_steps": schedule.accumulation,
        "num_train_epochs": 1,  # the schedule holds all passes
        "train_sampling_strategy": "sequential",
        "learning_rate": train.learning_rate,
        "lr_scheduler_type": train.scheduler,
        "lr_scheduler_kwargs": dict(train.scheduler_arguments),
        "warmup_steps": warmup_steps(train, schedule.steps),
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "bf16": train.precision == "bf16",
        "gradient_checkpointing": train.gradient_checkpointing,
        # an adapter under ZeRO-3 works with reentrant checkpointing alone
        "gradient_checkpointing_kwargs": {"use_reentrant": train.lora is not None and is_zero3(train.deepspeed)},
        "deepspeed": read_deepspeed(train.deepspeed),
        "ddp_find_unused_parameters": False,
        "remove_unused_columns": False,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # it would log the mean of earlier losses instead
        "save_strategy": "steps" if train.save_steps else "no",  # else by time, see `loops.callbacks.SaveByTime`
        "save_steps": train.save_steps or schedule.steps,
        "save_total_limit": None,  # older ones go when the new one has its marker, see loops.checkpoints
        "seed": train.seed,
        "report_to": trackers(train.report_to),
        "disable_tqdm": True,
        "use_cpu": not cuda,
        "dataloader_pin_memory": cuda,
    }


def micro_rows(train: Train) -> int:
    """`train.micro_batch_size` of a training that has started; `loops.micro_batch` has settled `auto` before."""
    assert isinstance(train.micro_batch_size, int)
    return train.micro_batch_size


def warmup_steps(train: Train, steps: int) -> int:
    """Optimiser steps of the warm-up. A share is rounded down: rounded up, a training of a few steps would spend its
    first one at a rate of 0."""
    return int(train.warmup_ratio * steps) if train.warmup_steps is None else train.warmup_steps


def _validation_settings(train: Train, schedule: Schedule) -> dict[str, object]:
    """Validation at fixed steps: checkpoints are made by the clock, so that the best one of them would be chance."""
    if schedule.validation is None:
        return {}
    return {
        "eval_strategy": "steps",
        "eval_steps": train.validation_steps or max(1, schedule.steps // 10),
        "per_device_eval_batch_size": micro_rows(train),
    }


def base_folder(model: str) -> Path:
    """The folder of a model: itself, or the hub's in the local cache."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]))


def load_model(train: Train, base: Path, family: Family[Objective]) -> PreTrainedModel | PeftModel:
    """The model to train, with LoRA's adapter where there is to be one; weights as `training_numerics` says.

    Raises:
        UserError: the checkpoint does not fit its architecture, or there is no dropout to set.
    """
    import torch
    import transformers
    from trl.trainer.utils import disable_dropout_in_model

    from loops.export import check_export

    bf16 = weights_of(training_numerics(train)) == "bf16"
    config = transformers.AutoConfig.from_pretrained(base, trust_remote_code=False, **family.config_changes())
    for name in dropout_settings(config, train.dropout):
        setattr(config.get_text_config(), name, train.dropout)
    transformers.set_seed(train.seed)  # new weights and adapters start at random
    model, loaded = getattr(transformers, family.auto_class).from_pretrained(
        base,
        config=config,
        dtype=torch.bfloat16 if bf16 else torch.float32,
        device_map=_device_map(train),
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        attn_implementation=find_attention(config),
    )
    refuse_strange(base, loaded["missing_keys"], loaded["unexpected_keys"], family)
    check_export(base, model, family)
    refuse_untrained(base, loaded["missing_keys"], train)
    family.start(model, loaded["missing_keys"])
    if not train.dropout:
        disable_dropout_in_model(model)  # dropout that no setting of the config stands for
    lora = lora_config(train, family)
    return model if lora is None else _with_adapter(model, lora, train)


def refuse_strange(base: Path, missing: Iterable[str], unexpected: Iterable[str], family: Family[Objective]) -> None:
    """Raises UserError if a checkpoint lacks weights that the model needs, or has weights that it does not know."""
    stored = read_headers(base, "the base model")
    lacking = sorted(name for name in missing if not name.startswith(family.new_weights))
    strange = sorted(
        name
        for name in unexpected
        if not name.startswith(family.unused_weights) and not (name in stored and stored[name].is_old_buffer(name))
    )
    for kind, names in (("missing", lacking), ("unexpected", strange)):
        if names:
            raise UserError(
                f"the checkpoint does not fit its architecture: {len(names)} {kind} keys, the first: {names[0]}",
                where=str(base),
                do="use a checkpoint written by save_pretrained",
            )


def refuse_untrained(base: Path, missing: Iterable[str], train: Train) -> None:
    """Raises UserError for new weights that LoRA would leave as they were drawn: it trains no others than the head."""
    left = sorted(name for name in missing if name.partition(".")[0] not in HEADS) if train.lora else []
    if left:
        raise UserError(
            f"the base lacks {some(left)}, and LoRA would leave these weights random",
            where=f"train.lora; {base}",
            do="train without LoRA, or name a base that has them",
        )


def _device_map(train: Train) -> dict[str, str] | None:
    """On a GPU weights are read straight to this rank's; ZeRO-3 shares them out as they are read."""
    import torch

    if not torch.cuda.is_available() or is_zero3(train.deepspeed):
        return None
    return {"": f"cuda:{os.environ.get('LOCAL_RANK', '0')}"}


def _with_adapter(model: PreTrainedModel, lora: LoraConfig, train: Train) -> PeftModel:
    """The model with LoRA's adapter around it. Raises UserError as `refuse_head`."""
    from peft import get_peft_model

    # ZeRO-3 gathers small parameters together, and cannot when an adapter's are fp32 among bf16 ones
    adapted = get_peft_model(model, lora, autocast_adapter_dtype=not is_zero3(train.deepspeed))
    refuse_head(adapted)
    if train.gradient_checkpointing:
        adapted.enable_input_require_grads()  # else no gradient gets through the first, frozen layer
    return adapted


def refuse_head(adapted: PeftModel) -> None:
    """Raises UserError for an adapter on the output head, whose weights the log-probs are computed from directly."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    if isinstance(adapted.get_output_embeddings(), BaseTunerLayer):
        raise UserError(
            "LoRA cannot be applied to the output head: it would not be trained",
            where="train.lora.target_modules",
            do="remove the output head (lm_head) from it",
        )


def is_zero3(deepspeed: str) -> bool:
    """Whether `train.deepspeed` shares out the weights themselves."""
    zero = (read_deepspeed(deepspeed) or {}).get("zero_optimization")
    return isinstance(zero, dict) and zero.get("stage") == 3


def lora_config(train: Train, family: Family[Objective]) -> LoraConfig | None:
    """peft's config of the adapter, or None."""
    if train.lora is None:
        return None
    from peft import LoraConfig

    lora = train.lora
    return LoraConfig(
        task_type=family.lora_task,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
    )
