"""What trainings write to the disk, estimated before one starts. Imports no torch."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from icr.base.errors import UserError
from icr.config.schema import Train
from icr.engines.sizes import GIB, CheckpointSize
from loops.numerics import training_numerics

KEPT = 2
"""Checkpoints at a time: the older one goes when the newer one is whole."""
MOMENTS = 8
"""AdamW's bytes a trained number: two moments in fp32. Adafactor's are so few that they do not count."""
MASTER = 4
"""Bytes of a number in fp32."""
RESERVE = GIB // 4
"""For logs, tables and what an estimate misses."""


@dataclass(frozen=True)
class DiskNeeds:
    """Bytes."""

    checkpoint: int
    """A checkpoint that a killed training continues from."""
    export: int
    """A round's model."""
    at_once: int
    """The most that one training has on disk, its model included."""

    def describe(self) -> str:
        return (
            f"a training writes checkpoints of about {_gib(self.checkpoint)} ({KEPT} at a time) and a model of "
            f"{_gib(self.export)} a round"
        )


def estimate_disk(train: Train, size: CheckpointSize) -> DiskNeeds:
    """What a training of a model of this size writes.

    With DeepSpeed a checkpoint has the weights as they compute, their master copy in fp32 and AdamW's moments; without
    it the weights and the moments. Of LoRA's only the adapter is trained and saved.
    """
    trained = size.parameters if train.lora is None else size.adapter_parameters(train.lora.rank)
    optimizer = 0 if train.optimizer == "adafactor" else MOMENTS
    weights = 2 if training_numerics(train) == "bf16" and train.lora is None else MASTER
    if train.deepspeed == "none":
        each = weights + optimizer
    elif train.deepspeed == "zero3":
        each = MASTER + optimizer
    else:
        each = weights + MASTER + optimizer
    checkpoint = each * trained
    models = 3 if train.validation else 1  # the best so far and a better one, beside the last
    return DiskNeeds(checkpoint, size.stored, KEPT * checkpoint + models * size.stored)


def check_disk(needs: DiskNeeds, folder: Path, there: int = 0) -> None:
    """Whether one training fits on the disk.

    Args:
        folder: any place on it, which need not exist yet.
        there: bytes of `needs` that are on the disk already.

    Raises:
        UserError: it does not.
    """
    wanted = needs.at_once - there + RESERVE
    free = free_disk(folder)
    if free < wanted:
        raise UserError(
            f"the disk has {_gib(free)} free, but a training needs about {_gib(wanted)}: {needs.describe()}",
            where=str(folder),
            do="free some space, or name a run folder on a larger disk; train.lora and train.optimizer: adafactor make "
            "smaller checkpoints",
        )


def free_disk(folder: Path) -> int:
    """Bytes that are free where `folder` is or will be."""
    place = folder.absolute()
    while not os.path.exists(place):  # a name that is too long does not exist, either
        place = place.parent
    return shutil.disk_usage(place).free


def folder_size(folder: Path) -> int:
    """Bytes of the files below a folder; 0 where there is none."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"
