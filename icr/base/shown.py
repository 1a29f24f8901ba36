"""Names of files and models for pages and model cards, which go to other people: without this machine's folders."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

_ABSOLUTE = re.compile(r"(?<![\w/:.…])(?:/[^\s/:,'\"\[\]{}]+){2,}/?")


def show_path(name: str, run: Path) -> str:
    """A path inside the run folder relative to it, `…/NAME` for another absolute path, any other name as it is."""
    path = Path(name)
    if not path.is_absolute():
        return name
    for base in (run, run.resolve()):
        if path.is_relative_to(base):
            return path.relative_to(base).as_posix()
    return f"…/{path.name}"


def hide_paths(value: object, run: Path) -> object:
    """Plain data with every absolute path in its texts shown as by `show_path`."""
    if isinstance(value, Mapping):
        return {key: hide_paths(inner, run) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [hide_paths(inner, run) for inner in value]
    if not isinstance(value, str):
        return value
    if os.path.exists(value):
        return show_path(value, run)  # whatever signs are in its name
    return _ABSOLUTE.sub(lambda found: show_path(found[0], run), value)
