"""The weights of a checkpoint, by the headers of its safetensors files: read in milliseconds, whatever their size."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from icr.base.errors import ConfigError, UserError
from icr.base.fields import Fields

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
POINTER = b"version https://git-lfs.github.com/spec/"
"""How a file begins that git-lfs has left in the place of the real one."""
DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64",
    "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
"""The format's words for numbers, and torch's."""
OLD_BUFFERS = ("rotary_emb.inv_freq", "masked_bias", "position_ids")
"""Endings of tensors that older versions saved and newer ones compute."""
LONGEST_HEADER = 100_000_000
"""Bytes; the format's own limit."""
SAMPLED = 1 << 20
"""Numbers that are read of one tensor."""
BUDGET = 1 << 26
"""Numbers that are read of all tensors together."""
AGAIN = "download or copy it again"


@dataclass(frozen=True)
class Stored:
    """One tensor of a checkpoint."""

    file: Path
    dtype: str
    """In the format's words: F32, BF16, …"""
    shape: tuple[int, ...]
    size: int
    """Bytes."""

    @property
    def torch_dtype(self) -> torch.dtype:
        """The same in torch's words."""
        import torch

        found: torch.dtype = getattr(torch, DTYPES[self.dtype])
        return found

    def is_old_buffer(self, name: str) -> bool:
        """Whether it is not a weight, if the model does not know it: a mask, an index, a table of frequencies."""
        return not self.dtype.startswith(("F", "BF")) or name.endswith(OLD_BUFFERS)


def read_headers(folder: Path, where: str) -> dict[str, Stored]:
    """Name → what the folder holds of each tensor.

    Args:
        where: the config key that names the folder, for messages.

    Raises:
        ConfigError: all that is wrong: missing, cut off or unreadable files, git-lfs pointers, an index that names
            tensors which are not there.
    """
    problems: list[UserError] = []
    names, index = _list_files(folder, where, problems)
    found: dict[str, Stored] = {}
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        what = f"{len(missing)} of {len(names)} weight shards are missing in {folder}: {', '.join(missing[:3])}"
        do = "copy the missing files into the folder, or name a complete checkpoint"
        problems.append(UserError(what, where=where, do=do))
    for name in names:
        if name not in missing:
            try:
                found |= read_header(folder / name, where)
            except UserError as error:
                problems.append(error)
    if not problems and (lost := sorted(key for key in index if key not in found)):
        what = f"{INDEX} names {len(lost)} tensors that its shards do not have, the first: {lost[0]}"
        problems.append(UserError(what, where=f"{where}: {folder}", do="name a complete checkpoint"))
    if problems:
        raise ConfigError(problems)
    return found


def is_complete(folder: Path) -> bool:
    """Whether a model's config and all of its weight files are there, as after a download that was not interrupted."""
    problems: list[UserError] = []
    names, _ = _list_files(folder, "", problems)
    return not problems and all((folder / name).is_file() for name in ("config.json", *names))


def _list_files(folder: Path, where: str, problems: list[UserError]) -> tuple[list[str], Mapping[str, str]]:
    """The names of the weight files, and the index: tensor → file; {} where there is none."""
    index = folder / INDEX
    if not index.is_file():
        if (folder / SINGLE).is_file():
            return [SINGLE], {}
        what, do = (
            f"{folder} has no safetensors weights",
            "save the model as safetensors (icr does not load pickled weights)",
        )
        problems.append(UserError(what, where=where, do=do))
        return [], {}
    try:
        refuse_pointer(index, where)
        weights = cast(object, json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights.values()):
            raise TypeError("weight_map is not a table of file names")
    except UserError as error:
        problems.append(error)
        return [], {}
    except (ValueError, KeyError, TypeError) as error:
        what = f"{INDEX} cannot be read: {_first_line(error)}"
        problems.append(UserError(what, where=f"{where}: {index}", do=AGAIN))
        return [], {}
    return sorted(set(weights.values())), weights


def read_header(file: Path, where: str) -> dict[str, Stored]:
    """Name → what one safetensors file holds. Raises UserError if it is cut off, or not such a file."""
    refuse_pointer(file, where)
    size = file.stat().st_size
    try:
        with open(file, "rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            if not 2 <= length <= min(size - 8, LONGEST_HEADER):
                raise ValueError("it is not a safetensors file, or it is cut off")
            header = cast(dict[str, Fields], json.loads(handle.read(length)))
        found, end = {}, 0
        for name, entry in header.items():
            if name != "__metadata__":
                if entry["dtype"] not in DTYPES:
                    raise ValueError(f"{name} has numbers of an unknown kind, {entry['dtype']}")
                start, stop = map(int, entry["data_offsets"])
                found[name] = Stored(file, entry["dtype"], tuple(map(int, entry["shape"])), stop - start)
                end = max(end, stop)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        what = f"{file.name} cannot be read: {_first_line(error)}"
        raise UserError(what, where=f"{where}: {file}", do=AGAIN) from error
    if end != size - 8 - length:
        what = f"{file.name} is cut off: it has {size - 8 - length} bytes of weights, and its header says {end}"
        raise UserError(what, where=f"{where}: {file}", do=AGAIN)
    return found


def refuse_pointer(file: Path, where: str) -> None:
    """Raises UserError for a git-lfs pointer: what `git clone` leaves where git-lfs is not installed."""
    with open(file, "rb") as handle:
        if handle.read(len(POINTER)) == POINTER:
            raise UserError(
                f"{file.name} is a git-lfs pointer, not the file itself",
                where=f"{where}: {file}",
                do=f"fetch the files: git -C {file.parent} lfs pull",
            )


def check_finite(tensors: Mapping[str, Stored], where: str) -> None:
    """Look for NaN and infinity in a sample: small tensors whole, of large ones the first rows, spread over all layers.

    Raises:
        UserError: there are any.
    """
    bad: list[str] = []
    looked = 0
    for name in _spread(tensors):
        values = _read_first(tensors[name], name)
        if values is None:
            continue
        looked += 1
        if not bool(values.isfinite().all()):
            bad.append(name)
    if bad:
        raise UserError(
            f"the weights are not finite: NaN or infinity in {len(bad)} of the {looked} tensors that were checked, "
            f"the first: {sorted(bad)[0]}",
            where=f"{where}: {next(iter(tensors.values())).file.parent}",
            do="use an earlier checkpoint; a training that diverged leaves such weights",
        )


def _spread(tensors: Mapping[str, Stored]) -> Iterator[str]:
    """Tensor names until BUDGET is used up: the smallest first, then large ones from the first layer to the last."""
    sizes = {name: min(SAMPLED, math.prod(stored.shape)) for name, stored in tensors.items()}
    small = [name for name, size in sizes.items() if size < SAMPLED]
    large = [name for name, size in sizes.items() if size == SAMPLED]
    wanted = min(len(large), BUDGET // SAMPLED)
    left = BUDGET
    for name in [*(large[n * len(large) // wanted] for n in range(wanted)), *sorted(small, key=sizes.__getitem__)]:
        left -= sizes[name]
        if left >= 0 or sizes[name] < SAMPLED // 16:
            yield name


def _read_first(stored: Stored, name: str) -> torch.Tensor | None:
    """The first rows of a tensor; None if it holds no floating-point numbers."""
    from safetensors import safe_open

    with safe_open(stored.file, "pt") as opened:
        part = opened.get_slice(name)
        rows = stored.shape[0] if stored.shape else 0
        each = max(1, math.prod(stored.shape[1:]))
        values: torch.Tensor = part[: max(1, min(rows, SAMPLED // each))] if rows else part[...]
    return values.float() if values.is_floating_point() else None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
