"""Names of models and data sets: which are paths, and which are ids of the Hugging Face hub.

`hf:org/name@revision` is always the hub's. Without `hf:`, a name is a hub id only if it cannot be a path:
it is `org/name` or `org/name@revision`, there is no folder `org`, and `org` is not a usual name of a folder.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PREFIX = "hf:"
FOLDERS = re.compile(
    "(adapter|answer|checkpoint|ckpt|config|data|dataset|experiment|export|judge|model|output|prompt|result|run|weight)s?"
    "|base|eval|exp|lora|merged|mnt|out|policy|reference|saved?|scratch|sft|tmp|train(ing)?",
    re.IGNORECASE,
)
"""Usual names of folders. `data/ultrafeedback` is a folder that is not there, not somebody's data set."""
_PART = r"[A-Za-z0-9](?:[\w.-]*[\w-])?"
_ID = re.compile(rf"(?P<repo>{_PART}/{_PART})(?:@(?P<revision>[\w][\w./-]*))?")


@dataclass(frozen=True)
class HubId:
    """A repository of the hub."""

    repo: str
    """org/name"""
    revision: str | None = None
    """A branch, a tag or a commit; None is the default branch."""

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}" if self.revision else self.repo


def read_hub_id(name: str) -> HubId | None:
    """`org/name` or `org/name@revision`, with or without `hf:`; None for anything else, also where a path is meant."""
    found = _ID.fullmatch(name.removeprefix(PREFIX))
    return HubId(found["repo"], found["revision"]) if found else None


def find_cached(name: str, file: str) -> Path | None:
    """The folder in the local cache that has this file of a hub model; None: it is not on this machine."""
    from huggingface_hub import try_to_load_from_cache

    hub = read_hub_id(name)
    found = try_to_load_from_cache(hub.repo, file, revision=hub.revision) if hub else None
    return Path(found).parent if isinstance(found, str) else None


def means_path(name: str, bases: Sequence[Path] = (Path(),)) -> bool:
    """Whether a name is meant as a path although nothing is there; one without a slash is not.

    Args:
        bases: the folders that a relative path starts from.
    """
    if name.startswith(PREFIX) or "/" not in name:
        return False
    first = name.partition("/")[0]
    if name.startswith((".", "~", "/")) or read_hub_id(name) is None or FOLDERS.fullmatch(first):
        return True
    return any((base / first).is_dir() for base in bases)
