"""How large a checkpoint is, from the headers of its files: no weights are read. Imports no torch."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from icr.base.fields import Fields

GIB = 2**30
BYTES = {"fp32": 4, "bf16": 2}
"""Of a number."""
NO_LAYERS = ("embed", "lm_head", "wte", "wpe")
"""Parts of the names of matrices that no adapter is put on."""
LONGEST_HEADER = 100_000_000
"""Bytes that safetensors allows."""


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
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, "config.json")
    except HFValidationError:
        return None  # a path
    return Path(found).parent if isinstance(found, str) else None


def read_model_config(model: str) -> Fields | None:
    """The language part of a model's config.json; None where that is not on this machine or no JSON object."""
    folder = find_folder(model)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8")) if folder else None
    except (OSError, ValueError):
        return None
    return cast(Fields, config.get("text_config", config)) if isinstance(config, dict) else None


def measure_checkpoint(model: str) -> CheckpointSize | None:
    """The size of a folder's or a cached hub id's weights; None where they are not here or cannot be read."""
    folder = find_folder(model)
    files = sorted(folder.glob("*.safetensors")) if folder else []
    parameters = stored = 0
    matrices: list[tuple[int, int]] = []
    try:
        for file in files:
            for name, entry in _read_header(file).items():
                shape, (start, end) = entry["shape"], entry["data_offsets"]
                parameters += math.prod(shape)
                stored += end - start
                if len(shape) == 2 and not any(part in name for part in NO_LAYERS):
                    matrices.append((shape[0], shape[1]))
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None  # that the file is broken is said where it is loaded
    return CheckpointSize(parameters, stored, tuple(matrices)) if parameters else None


def _read_header(file: Path) -> dict[str, Fields]:
    with open(file, "rb") as handle:
        (length,) = struct.unpack("<Q", handle.read(8))
        if length > LONGEST_HEADER:
            raise ValueError(f"{file} is not a safetensors file")
        header: dict[str, Fields] = json.loads(handle.read(length))
    header.pop("__metadata__", None)
    return header
