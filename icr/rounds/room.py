"""Whether a machine's GPUs and disk suffice for a run, before anything is loaded; what `icr validate` says of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from icr.base.errors import ConfigError, UserError
from icr.config.schema import Config
from icr.engines.open import choose_backend
from icr.engines.sizes import GIB, measure_checkpoint
from icr.rounds.context import Inputs
from icr.work.devices import check_count, check_heads, check_memory, find_gpus
from loops.disk import check_disk, estimate_disk, free_disk


def check_room(config: Config, model: str) -> None:
    """Compare the config with this machine, as far as that and the model are known.

    Args:
        model: that is trained: a folder, or a hub id, whose size is known where it is in the local cache.

    Raises:
        ConfigError: an engine is to have more GPUs than there are, or cannot share its heads out to them; a training
            does not fit on the disk. Of a run that has begun, its next training looks at the disk.
    """
    problems: list[UserError] = []
    engines = config.sampling.tensor_parallel
    try:
        if engines > 1:
            check_count(engines, len(find_gpus()))
    except UserError as error:
        problems.append(error)
    try:
        if engines > 1 and choose_backend(config.sampling.backend) == "vllm":
            check_heads(engines, model, "models.policy")
    except UserError as error:
        problems.append(error)
    size, folder = measure_checkpoint(model), _folder(config)
    try:
        if size is not None and not os.path.exists(folder / "config.yaml"):
            check_disk(estimate_disk(config.train, size), folder)
    except UserError as error:
        problems.append(error)
    if problems:
        raise ConfigError(problems)


def describe_room(config: Config, inputs: Inputs) -> Iterator[str]:
    """Lines on GPUs and disk: estimates, and what is not known here."""
    gpus = find_gpus()
    for gpu in gpus:
        yield f"GPU {gpu.number}: {gpu.name}, {gpu.free / GIB:.1f} of {gpu.total / GIB:.1f} GiB free"
    if not gpus:
        yield "GPUs: none found on this machine, so sampling.tensor_parallel and sampling.gpu_memory were not checked"
    try:
        check_memory(config.sampling, gpus)
    except ConfigError as error:
        yield from (f"note: {problem}" for problem in error.problems)
    size = measure_checkpoint(inputs.policy or inputs.reference)
    if size is None:
        yield "disk: the model is not here as safetensors; icr plan estimates the size of its checkpoints"
        return
    needs = estimate_disk(config.train, size)
    rounds = config.rounds + (1 if inputs.policy is None else 0)
    yield (
        f"disk (estimate): {needs.describe()}, {rounds * needs.export / GIB:.1f} GiB in all; "
        f"{free_disk(_folder(config)) / GIB:.1f} GiB are free"
    )


def _folder(config: Config) -> Path:
    return Path(config.run) if config.run else Path.cwd()
