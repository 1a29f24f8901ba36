"""A folder by its address: s3://, gs://, hdfs:// or file://, through pyarrow. Files in it are whole or absent."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from icr.base.errors import UserError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

SCHEMES = ("s3", "gs", "gcs", "hdfs", "file")
PIECE = 2**24
"""Bytes that are held in memory while a file is copied."""


@dataclass(frozen=True)
class Stored:
    """A file in a bucket: bytes, and when it was written, in nanoseconds since 1970."""

    size: int
    written: int


class Bucket:
    """Names are paths below its address. Errors of the network are OSErrors."""

    def __init__(self, uri: str, where: str) -> None:
        """
        Args:
            where: the key or option that names it, for messages.

        Raises:
            UserError: it is not such an address, or it cannot be reached.
        """
        from pyarrow import ArrowException
        from pyarrow.fs import FileSystem

        if uri.partition("://")[0] not in SCHEMES:
            do = "write an address such as s3://bucket/folder, gs://bucket/folder or file:///folder"
            raise UserError(f"{uri} is not the address of a bucket", where=where, do=do)
        try:
            self._files, path = FileSystem.from_uri(uri)
            self._root = str(path).rstrip("/")
            self._files.get_file_info(self._root)
        except (ArrowException, OSError) as error:
            do = "check the address, the credentials and the region (docs/cluster.md)"
            raise UserError(f"{uri} cannot be reached: {str(error)[:300]}", where=where, do=do) from error

    def list(self) -> Mapping[str, Stored]:
        """All files, by name."""
        from pyarrow.fs import FileSelector, FileType

        found = self._files.get_file_info(FileSelector(self._root, recursive=True, allow_not_found=True))
        return {
            info.path[len(self._root) + 1 :]: Stored(info.size, info.mtime_ns or 0)
            for info in found
            if info.type == FileType.File
        }

    def has(self, name: str) -> bool:
        from pyarrow.fs import FileType

        return bool(self._files.get_file_info(self._path(name)).type == FileType.File)

    def put(self, file: Path, name: str) -> None:
        """Store a file. In object stores it appears whole; in folders it is renamed when it is complete."""
        path = self._path(name)
        with open(file, "rb") as source:
            if not self._has_folders():
                with self._files.open_output_stream(path) as out:
                    shutil.copyfileobj(source, out, PIECE)
                return
            self._files.create_dir(path.rpartition("/")[0], recursive=True)
            with self._files.open_output_stream(f"{path}.part") as out:
                shutil.copyfileobj(source, out, PIECE)
            self._files.move(f"{path}.part", path)

    def get(self, name: str, file: Path) -> None:
        """Copy a file out."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with self._files.open_input_stream(self._path(name)) as source, open(file, "wb") as out:
            shutil.copyfileobj(source, out, PIECE)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _has_folders(self) -> bool:
        return _kind(self._files) in ("local", "hdfs")


def _kind(files: FileSystem) -> str:
    return str(files.type_name)
