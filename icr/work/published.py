"""Models on their way to nodes that do not see the driver's folders: stored once in a bucket, copied once a node."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from icr.base.bucket import Bucket
from icr.base.content import MODEL_FILES, cache_root, hash_file, identify_model
from icr.base.files import atomic_folder
from icr.engines.sizes import GIB

WHERE = "cluster.models"
KEY = 32
"""Hex digits of a content's hash that name it."""
LIST = "files.json"
"""Names of a model's files in the bucket, written when all of them are there."""


class Published:
    """The driver's half."""

    def __init__(self, uri: str, say: Callable[[str], None]) -> None:
        """
        Args:
            say: shows the user a line.

        Raises:
            UserError: the bucket cannot be reached.
        """
        self.uri, self._bucket, self._say = uri, Bucket(uri, WHERE), say
        self._names: dict[str, str] = {}

    def publish(self, payload: str) -> dict[str, str]:
        """Store the models and templates that a task names and that are not there yet.

        Returns:
            Path here → name in the bucket.
        """
        texts = set(_texts(json.loads(payload)))
        return {text: name for text in texts if (name := self._name(Path(text)))}

    def _name(self, path: Path) -> str | None:
        """Of a model's folder or a template's file, after it is stored; None for anything else."""
        if str(path) in self._names:
            return self._names[str(path)]
        if path.is_absolute() and path.suffix == ".jinja" and path.is_file():
            key, folder, files = hash_file(path)[:KEY], path.parent, [path]
            name = f"{key}/{path.name}"
        elif path.is_absolute() and (path / "config.json").is_file():
            name = key = identify_model(str(path))[:KEY]
            folder, files = path, sorted({file for pattern in MODEL_FILES for file in path.glob(pattern)})
        else:
            return None
        if not self._bucket.has(f"{key}/{LIST}"):
            size = sum(file.stat().st_size for file in files)
            self._say(f"copying {path.name} ({size / GIB:.1f} GiB) to {self.uri}")
            self._upload(folder, files, key)
        self._names[str(path)] = name
        return name

    def _upload(self, folder: Path, files: Sequence[Path], key: str) -> None:
        for file in files:
            self._bucket.put(file, f"{key}/{file.relative_to(folder)}")
        with TemporaryDirectory() as made:
            names = Path(made) / LIST
            names.write_text(json.dumps([str(file.relative_to(folder)) for file in files]), encoding="utf-8")
            self._bucket.put(names, f"{key}/{LIST}")


def find_copy(uri: str, name: str) -> Path:
    """The node's own copy of what is stored; the first to ask on a node makes it, and the others wait for it.

    Raises:
        UserError: the bucket cannot be reached from here.
        OSError: the copy failed.
    """
    key, _, file = name.partition("/")
    folder = cache_root() / "published" / key
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with open(folder.with_name(f"{key}.lock"), "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.is_dir():
                _copy(Bucket(uri, WHERE), key, folder)
    return folder / file if file else folder


def _copy(bucket: Bucket, key: str, folder: Path) -> None:
    with atomic_folder(folder) as made:
        bucket.get(f"{key}/{LIST}", made / LIST)
        for name in json.loads((made / LIST).read_text(encoding="utf-8")):
            bucket.get(f"{key}/{name}", made / name)
        (made / LIST).unlink()


def rename(payload: str, copies: Mapping[str, str]) -> str:
    """A task with other folders: what is a key of `copies` becomes its value."""
    return json.dumps(_renamed(json.loads(payload), copies), ensure_ascii=False)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _texts(one)


def _renamed(value: object, copies: Mapping[str, str]) -> object:
    if isinstance(value, str):
        return copies.get(value, value)
    if isinstance(value, list):
        return [_renamed(one, copies) for one in value]
    if isinstance(value, dict):
        return {key: _renamed(one, copies) for key, one in value.items()}
    return value
