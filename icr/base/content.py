"""What an input is, not where it is: hashes of files, folders, rows and classes, and the commits of hub ids.

All hashes are sha256 in hex. Two inputs with the same hash give the same results, whatever their names.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from icr.base.files import read_json, write_json
from icr.base.hub import read_hub_id
from icr.base.plugins import load_class

MODEL_FILES = (
    "*.safetensors",
    "*.json",
    "*.jinja",
    "additional_chat_templates/*.jinja",
    "*.txt",
    "*.model",
    "*.tiktoken",
    "*.gguf",
)
"""What loading a model or its tokenizer reads. No code: models that bring their own are not loaded."""
ADAPTER = "adapter_config.json"
"""The config of a LoRA adapter in peft's format."""
LARGE = 1 << 20
"""Bytes from which on a hash is remembered; smaller files are read as fast as a remembered hash is looked up."""
RACY = 2 * 10**9
"""Nanoseconds. A file may change again within its time stamp's resolution, so that its stamp cannot tell."""
TIMEOUT = 5.0
"""Seconds for the hub to answer."""

Entry = tuple[int, int, int, str]
"""(size in bytes, mtime in ns, inode, sha256)"""


def cache_root() -> Path:
    """The cache folder, for files that can be made again: $ICR_CACHE, else `icr` in the user's cache folder."""
    if root := os.environ.get("ICR_CACHE"):
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "icr"


def canonical_json(value: object) -> str:
    """One text for one value: keys sorted, no blanks, 1.0 written as 1.

    Raises:
        TypeError: the value is not plain JSON.
    """
    return json.dumps(_without_point(value), sort_keys=True, separators=(",", ":"))


def _without_point(value: object) -> object:
    """JSON has one kind of number: 1 and 1.0 mean the same."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, Mapping):
        return {key: _without_point(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_point(inner) for inner in value]
    return value


def hash_value(value: object) -> str:
    """Of a plain JSON value. Raises TypeError for any other."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def hash_rows(rows: Iterable[Mapping[str, object]]) -> str:
    """Of rows of plain JSON values. Their order counts, the order of their keys does not.

    Raises:
        TypeError: a value is not plain JSON.
    """
    digest = hashlib.sha256()
    for row in rows:
        digest.update(canonical_json(row).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def hash_file(path: Path) -> str:
    """Of a file's content. A large file that has not changed since it was last hashed is not read again.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as handle:
        stamp = _stamp(handle.fileno())
        name = str(path.resolve())
        if stamp[0] >= LARGE and (known := _read_cache().get(name)) and known[:3] == stamp:
            return known[3]
        began = time.time_ns()
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
        settled = began - stamp[1] > RACY and _stamp(handle.fileno()) == stamp
    if stamp[0] >= LARGE and settled:
        _remember(name, (*stamp, digest))
    return digest


def hash_folder(path: Path, patterns: Sequence[str] = ("**/*",)) -> str:
    """Of the names and contents of a folder's files; hidden ones and compiled Python do not count.

    Args:
        patterns: which files count, as globs relative to the folder.

    Raises:
        NotADirectoryError: folder not found.
        OSError: a file cannot be read.
    """
    if not path.is_dir():
        raise NotADirectoryError(f"{path} is not a folder")
    found = {file.relative_to(path) for pattern in patterns for file in path.glob(pattern) if file.is_file()}
    names = sorted(name.as_posix() for name in found if not any(map(_is_hidden, name.parts)))
    return hash_rows({"name": name, "sha256": hash_file(path / name)} for name in names)


def identify_model(spec: str) -> str:
    """What a model is: the hash of its content, with its base's where it is an adapter, or `org/name@commit`.

    Args:
        spec: a folder, a .gguf file or a hub id, as `locate` gives it.

    A hub id whose commit is unknown is returned without one, and then differs from the same id with its commit: call
    this when the model is in the local cache, where the commit is found offline as well.

    Raises:
        OSError: a file cannot be read.
    """
    path = Path(spec)
    if path.is_dir():
        own, base = hash_folder(path, MODEL_FILES), find_base(path)
        return own if base is None else hash_value([own, identify_model(base)])
    if path.is_file():
        return hash_file(path)
    hub = read_hub_id(spec)
    commit = hub and hub_revision(hub.repo, revision=hub.revision)
    return f"{hub.repo}@{commit}" if hub and commit else spec


def find_base(folder: Path) -> str | None:
    """The model that a folder's adapter was trained on: a folder, or a name; None for a whole model."""
    file = folder / ADAPTER
    try:
        base = read_json(file).get("base_model_name_or_path") if file.is_file() else None
    except (ValueError, AttributeError):
        return None  # checking the model says what is wrong with the file
    if not isinstance(base, str) or not base:
        return None
    return str((folder / base).resolve()) if (folder / base).is_dir() else base


def identify_class(name: str, key: str) -> str:
    """What a class is: the hash of the file that defines it.

    Args:
        name: `module:Class` or `path/to/file.py:Class`.
        key: the config key that holds the name, for messages.

    Raises:
        UserError: the class cannot be imported.
    """
    found = load_class(name, key)
    try:
        file = inspect.getsourcefile(found) or inspect.getfile(found)
    except (TypeError, OSError):
        return hash_value([name, sys.version])  # part of Python itself
    return hash_file(Path(file))


def hub_revision(repo_id: str, kind: Literal["model", "dataset"] = "model", revision: str | None = None) -> str | None:
    """The present commit of a hub id: from the hub, else from the local cache.

    Args:
        revision: a branch, a tag or a commit; None is `main`.

    Returns:
        None if neither the hub nor the cache knows.
    """
    from huggingface_hub import constants

    if revision and re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    online = None if constants.is_offline_mode() else _ask_hub(repo_id, kind, revision)
    return online or _find_cached(repo_id, kind, revision or "main")


def _ask_hub(repo_id: str, kind: str, revision: str | None) -> str | None:
    import httpx2
    from huggingface_hub import HfApi

    try:
        return HfApi().repo_info(repo_id, repo_type=kind, revision=revision, timeout=TIMEOUT).sha
    except (httpx2.HTTPError, OSError, ValueError):
        return None  # not reachable, not public, no such id: loading it gives a better message


def _find_cached(repo_id: str, kind: str, revision: str) -> str | None:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo_id, repo_type=kind)
    try:
        return (folder / "refs" / revision).read_text(encoding="utf-8").strip() or None
    except (OSError, ValueError):
        return None


def _is_hidden(part: str) -> bool:
    return part.startswith(".") or part == "__pycache__"


def _stamp(fd: int) -> tuple[int, int, int]:
    """(size in bytes, mtime in ns, inode) of an open file."""
    found = os.fstat(fd)
    return found.st_size, found.st_mtime_ns, found.st_ino


def _cache_path() -> Path:
    return cache_root() / "hashes.json"


def _read_cache() -> dict[str, Entry]:
    """Path → entry; what is not an entry is left out."""
    try:
        found = read_json(_cache_path())
    except (OSError, ValueError):
        return {}  # none yet, or not readable: the files are read again
    pairs = found.items() if isinstance(found, dict) else ()
    return {name: (entry[0], entry[1], entry[2], entry[3]) for name, entry in pairs if _is_entry(entry)}


def _is_entry(entry: object) -> bool:
    return isinstance(entry, list) and [type(part) for part in entry] == [int, int, int, str] and len(entry[3]) == 64


def _remember(name: str, entry: Entry) -> None:
    """Two processes that write at once lose one entry at most, and that file is read once more."""
    kept = {path: old for path, old in _read_cache().items() if os.path.exists(path)}
    with suppress(OSError):  # a cache that cannot be written costs time, and no result
        write_json(_cache_path(), {**kept, name: entry})
