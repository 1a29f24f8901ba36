"""A user's DeepSpeed config: read, and checked for what DeepSpeed passes over in silence or finds hours later."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from icr.base.errors import ConfigError, UserError
from icr.config.schema import CONFIGS, Train

SHIPPED = ("zero2", "zero3")
OURS = {
    "train_batch_size": "train.batch_size",
    "train_micro_batch_size_per_gpu": "train.micro_batch_size",
    "gradient_accumulation_steps": "train.batch_size and train.micro_batch_size",
    "gradient_clipping": "train.max_grad_norm",
}
"""Keys that icr decides → what they follow from."""
REPLACED = {"optimizer": "train.optimizer", "scheduler": "train.scheduler"}
"""Sections that would take the place of settings of the config."""
_OTHERS = """
    activation_checkpointing aio amp autotuning bf16 bfloat16 checkpoint comet comms_logger
    communication_data_type compile compression_training csv_monitor curriculum_learning data_efficiency
    data_types dataloader_drop_last datastates_ckpt disable_allgather disable_python_gc dump_state eigenvalue
    elasticity expert_parallel flops_profiler fp16 gradient_allreduce_op gradient_predivide_factor hybrid_engine
    log_level memory_breakdown managed_gradient_accumulation nebula pipeline prescale_gradients
    progressive_layer_drop seq_parallel_communication_data_type sparse_attention sparse_gradients
    steps_per_print tensor_parallel tensorboard timers torch_autocast use_data_before_expert_parallelism
    vocabulary_size wall_clock_breakdown wandb weight_quantization zero_allow_untested_optimizer
    zero_force_ds_cpu_optimizer zero_optimization
"""
SECTIONS = frozenset(_OTHERS.split())
"""DeepSpeed's other keys; it ignores unknown ones without a word."""


def read_deepspeed(name: str) -> dict[str, object] | None:
    """`zero2`, `zero3`, `none`, or a user's JSON file, read.

    Raises:
        UserError: the file is not there, or is not a JSON object.
    """
    if name == "none":
        return None
    path = CONFIGS / "deepspeed" / f"{name}.json" if name in SHIPPED else Path(name)
    do = "write zero2, zero3, none, or the path of a JSON file"
    if not path.is_file():
        raise UserError(f"DeepSpeed config {name} not found", where="train.deepspeed", do=do)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        place = f"{path}:{error.lineno}"
        raise UserError(f"the DeepSpeed config is not JSON: {error.msg}", where=place, do="fix the line") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"the DeepSpeed config cannot be read: {error}", where=str(path), do=do) from error
    if not isinstance(config, dict):
        raise UserError(
            "the DeepSpeed config is not a JSON object", where=str(path), do="configs/deepspeed/ has examples"
        )
    return config


def check_deepspeed(train: Train) -> None:
    """Check a user's file. Raises ConfigError with every problem of it, UserError when it cannot be read."""
    config = read_deepspeed(train.deepspeed)
    if config is None or train.deepspeed in SHIPPED:
        return
    problems = list(_find_problems(config, train))
    if problems:
        raise ConfigError(problems)


def _find_problems(config: Mapping[str, object], train: Train) -> Iterator[UserError]:
    where = f"train.deepspeed: {train.deepspeed}"
    known = SECTIONS | OURS.keys() | REPLACED.keys()
    for key, value in config.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
            do = f"did you mean {near[0]}?" if near else "remove it"
            yield UserError(f"DeepSpeed has no key {key}, and would ignore it", where=where, do=do)
        elif key in OURS and value not in ("auto", _value(key, train)):
            do = f'write "{key}": "auto", and set {OURS[key]}'
            yield UserError(f"{key} is {value}, but icr sets it", where=where, do=do)
        elif key in REPLACED:
            do = f"remove it, and set {REPLACED[key]}"
            yield UserError(f"{key} would replace {REPLACED[key]} of the config", where=where, do=do)
    yield from _check_precision(config, train, where)
    yield from _check_zero(config.get("zero_optimization", {}), where)


def _value(key: str, train: Train) -> object:
    return train.max_grad_norm if key == "gradient_clipping" else "auto"


def _check_precision(config: Mapping[str, object], train: Train, where: str) -> Iterator[UserError]:
    for key, wanted in (("fp16", False), ("bf16", train.precision == "bf16")):
        section = config.get(key, {})
        enabled = section.get("enabled", False) if isinstance(section, dict) else None
        if enabled is None:
            yield UserError(f"{key} is not a section", where=where, do=f'write "{key}": {{"enabled": …}}')
        elif key == "bf16" and train.precision == "auto":
            continue  # the machine decides
        elif enabled not in ("auto", wanted) and (enabled or key in config):
            do = f'write "{key}": {{"enabled": "auto"}}, and set train.precision'
            yield UserError(f"{key} does not go with train.precision: {train.precision}", where=where, do=do)


def _check_zero(section: object, where: str) -> Iterator[UserError]:
    stage = section.get("stage", 0) if isinstance(section, dict) else None
    if isinstance(stage, bool) or stage not in (0, 1, 2, 3):
        yield UserError(
            "zero_optimization has no stage from 0 to 3", where=where, do='write "zero_optimization": {"stage": 2}'
        )
