"""Files are whole or absent: everything is written beside its final name, then renamed over it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from icr.base.errors import UserError
from icr.base.fields import Fields


def check_folder(folder: Path, where: str = "", do: str = "check the path") -> None:
    """Raises UserError unless `folder` is one. `where`: the option or key that names it."""
    if folder.is_file():
        raise UserError(f"{folder} is a file, and a folder is needed", where=where, do="name the folder that it is in")
    if not folder.is_dir():
        raise UserError(f"folder {folder} not found", where=where, do=do)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; on success it is synced and renamed to `path`, else removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield tmp
        with open(tmp, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(tmp, path)
    finally:
        tmp.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Like `atomic_path` for a folder. An older folder of that name is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir()
    try:
        yield tmp
        for file in tmp.rglob("*"):
            if file.is_file():
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
        if path.exists():
            shutil.rmtree(path)
        os.rename(tmp, path)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove half-written files of a command that was killed, anywhere in a folder whose lock the caller holds."""
    for left in sorted(folder.rglob(".*.tmp")):
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as tmp:
        tmp.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_object(path: Path) -> Fields:
    """A JSON file that holds an object.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON, or something else than an object.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"a JSON object is expected, and there is a {type(value).__name__}")
    return value


def write_table(path: Path, table: pa.Table) -> None:
    with atomic_path(path) as tmp:
        pq.write_table(table, tmp)


def write_rows(path: Path, rows: Sequence[Mapping[str, object]], schema: pa.Schema) -> None:
    """Write rows as parquet. The schema is explicit so that an empty table still has its columns."""
    write_table(path, pa.Table.from_pylist(rows, schema=schema))


def read_rows(path: Path, columns: list[str] | None = None) -> list[Any]:
    """A parquet file's rows; of `columns` alone, where they are named: token ids are most of a table of responses.

    Each is a dict. Whoever reads them says of which TypedDict.

    Raises:
        OSError: the file is not there.
        UserError: it is damaged, or lacks a column.
    """
    try:
        return list(pq.read_table(path, columns=columns).to_pylist())
    except pa.ArrowException as error:
        raise UserError(
            f"the table cannot be read: {str(error).splitlines()[0]}",
            where=str(path),
            do="restore the file from a backup, or do that work again in a new folder",
        ) from error


def read_columns(path: Path) -> list[str]:
    """The names of a parquet file's columns; none where it is no such file."""
    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowException, OSError):
        return []
