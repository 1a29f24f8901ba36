"""How large a checkpoint is, from the headers of its files: no weights are read. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.files import read_object
from icr.base.hub import find_cached
from icr.engines.weights import Stored, read_header

GIB = 2**30
BYTES = {"fp32": 4, "bf16": 2}
"""Of a number."""
NO_LAYERS = ("embed", "lm_head", "wte", "wpe")
"""Parts of the names of matrices that no adapter is put on."""


@dataclass(frozen=True)
class CheckpointSize:
    """What the safetensors files of a model hold."""

    parameters: int
    stored: int
    """Bytes of the tensors as they are stored."""
    matrices: tuple[tuple[int, int], ...] = ()
    """The shapes of the layers' matrices: of all but embeddings and output head."""

    def adapter_parameters(self, rank: int) -> int:
        """At most so many numbers has LoRA's adapter: on every linear layer."""
        return rank * sum(rows + columns for rows, columns in self.matrices)


def find_folder(model: str) -> Path | None:
    """The folder of a model: itself, or a hub id's in the local cache; None where it is not on this machine."""
    return Path(model) if Path(model).is_dir() else find_cached(model, "config.json")


def read_model_config(model: str) -> Fields | None:
    """The language part of a model's config.json; None where that is not on this machine or no JSON object."""
    folder = find_folder(model)
    try:
        config = read_object(folder / "config.json") if folder else None
    except (OSError, ValueError):
        return None
    return cast(Fields, config.get("text_config", config)) if config is not None else None


def measure_checkpoint(model: str) -> CheckpointSize | None:
    """The size of a folder's or a cached hub id's weights; None where they are not here or cannot be read."""
    folder = find_folder(model)
    files = sorted(folder.glob("*.safetensors")) if folder else []
    try:
        tensors = {name: tensor for file in files for name, tensor in read_header(file, model).items()}
    except (OSError, UserError):
        return None  # that the file is broken is said where it is loaded
    return measure_tensors(tensors)


def measure_tensors(tensors: Mapping[str, Stored]) -> CheckpointSize | None:
    """The size of these tensors, by name; None of none."""
    parameters = sum(math.prod(tensor.shape) for tensor in tensors.values())
    stored = sum(tensor.size for tensor in tensors.values())
    layers = [t.shape for name, t in tensors.items() if not any(part in name for part in NO_LAYERS)]
    matrices = [(shape[0], shape[1]) for shape in layers if len(shape) == 2]
    return CheckpointSize(parameters, stored, tuple(matrices)) if parameters else None
