"""Finds wrong settings of a training before its data exist, without a model in memory.

torch and transformers are imported only where a setting asks for it: not for the defaults.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from icr.base.errors import UserError
from icr.base.problems import Collector
from icr.config.schema import Train
from loops.deepspeed_json import check_deepspeed

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

PLAIN = ("cosine", "linear", "constant", "constant_with_warmup", "inverse_sqrt", "cosine_with_restarts", "polynomial")
"""Schedulers that need nothing else, so that these names are accepted without importing transformers."""
BY_VALIDATION = ("reduce_lr_on_plateau", "greedy")
"""Schedulers that follow the validation loss."""
WITHOUT_ARGUMENTS = ("constant", "constant_with_warmup")
TOY = 20
"""Steps of the training on which a scheduler is tried."""
NO_DROPOUT = ("classifier", "summary", "lora")
"""Parts of the names of dropout settings that do not belong to a language model's layers."""


def check_train(train: Train) -> None:
    """Check DeepSpeed config, optimiser, scheduler and trackers against each other and against what is installed.

    Raises:
        ConfigError: every problem found.
    """
    found = Collector()
    checks: list[Callable[[Train], object]] = [
        check_deepspeed, check_optimizer, check_scheduler, lambda t: trackers(t.report_to),
    ]  # fmt: skip
    for check in checks:
        found.attempt(None, check, train)
    found.raise_any()


def check_optimizer(train: Train) -> None:
    """Adafactor keeps a row and a column of statistics per matrix. Raises UserError where there are no matrices."""
    if train.optimizer == "adafactor" and train.deepspeed != "none":
        raise UserError(
            "Adafactor does not work with DeepSpeed: it needs whole matrices, and DeepSpeed cuts them into flat pieces",
            where=f"train.optimizer: adafactor, train.deepspeed: {train.deepspeed}",
            do="set train.deepspeed to none, or train.optimizer to adamw",
        )


def check_scheduler(train: Train) -> None:
    """Raises UserError for a scheduler that transformers does not know, or that lacks something that it needs."""
    name, arguments = train.scheduler, train.scheduler_arguments
    if name in BY_VALIDATION and not train.validation:
        raise UserError(
            f"the scheduler {name} needs a validation loss, but there are no validation rows",
            where=f"train.scheduler: {name}",
            do="set train.validation, or choose another scheduler",
        )
    if name in PLAIN and not arguments:
        return
    from transformers.trainer_utils import SchedulerType

    known = [str(kind.value) for kind in SchedulerType]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise UserError(
            f"unknown scheduler {name}",
            where="train.scheduler",
            do=f"{f'did you mean {near[0]}? ' if near else ''}known: {', '.join(known)}",
        )
    if name in WITHOUT_ARGUMENTS and arguments:
        raise UserError(
            f"the scheduler {name} takes no arguments",
            where=f"train.scheduler_arguments: {dict(arguments)}",
            do="remove them, or choose another scheduler",
        )
    _build_scheduler(name, arguments)


def _build_scheduler(name: str, arguments: Mapping[str, object]) -> None:
    """Make the scheduler on a toy: what its arguments lack shows there. Raises UserError."""
    import torch
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    try:
        made = get_scheduler(
            name, optimizer, num_warmup_steps=1, num_training_steps=TOY, scheduler_specific_kwargs=dict(arguments)
        )
        rates = []
        for _ in range(TOY):
            optimizer.step()
            made.step(*([1.0] if name in BY_VALIDATION else []))
            rates.append(float(optimizer.param_groups[0]["lr"]))
        if not all(math.isfinite(rate) and rate >= 0 for rate in rates):
            raise ValueError("its learning rate is negative or not a number at some step")
    except Exception as error:  # arguments of any type and value may fail in any way
        raise UserError(
            f"the scheduler {name} cannot be created: {error or type(error).__name__}",
            where=f"train.scheduler_arguments: {dict(arguments)}",
            do="set the arguments that transformers documents for this scheduler",
        ) from error


def trackers(report_to: str) -> list[str]:
    """`train.report_to`, taken apart. Raises UserError for a tracker that is unknown or not installed."""
    names = [name.strip() for name in report_to.split(",") if name.strip() not in ("", "none")]
    if not names:
        return []
    from transformers import integrations

    there = integrations.get_available_reporting_integrations()  # type: ignore[no-untyped-call, attr-defined]
    unknown = [name for name in names if name not in there]
    if unknown:
        raise UserError(
            f"tracker {', '.join(unknown)} is unknown or not installed",
            where=f"train.report_to: {report_to}",
            do=f"install it, or write none{' or ' + ', '.join(there) if there else ''}",
        )
    return names


def check_dropout(model: str, dropout: float) -> None:
    """Raises UserError when the model (a folder or hub id) has no dropout to set."""
    if not dropout:
        return
    from transformers import AutoConfig

    dropout_settings(AutoConfig.from_pretrained(model, trust_remote_code=False), dropout)


def dropout_settings(config: PreTrainedConfig, dropout: float) -> list[str]:
    """Names of the settings of a model's config that are a dropout probability.

    Raises:
        UserError: `dropout` is not 0 and there is none.
    """
    names = [
        name
        for name, value in vars(config.get_text_config()).items()
        if ("dropout" in name or name.endswith("pdrop"))
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and not any(part in name for part in NO_DROPOUT)
    ]
    if dropout and not names:
        raise UserError(
            f"models of the type {config.model_type} have no dropout to set",
            where=f"train.dropout: {dropout:g}",
            do="set train.dropout to 0; train.lora.dropout works with every model",
        )
    return names
