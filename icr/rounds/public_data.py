"""Where a config names public data that is not there, its problem says how to get it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from icr.base.errors import UserError
from icr.config.load import flatten
from icr.config.schema import Config
from prompts.public_sets import SETS


def name_public_data(config: Config, problems: Sequence[UserError]) -> list[UserError]:
    """The problems; those about a folder that `icr data get` makes have the command that gets all of them."""
    values = flatten(config)
    missing = {p.where: folder for p in problems if (folder := _missing_set(values.get(p.where)))}
    return [
        UserError(p.what, where=p.where, do=_how_to_get(missing[p.where], list(missing.values())))
        if p.where in missing
        else p
        for p in problems
    ]


def _missing_set(value: object) -> Path | None:
    """The folder of a public set that a path is or is in, if it is not there."""
    if not isinstance(value, str) or not os.path.isabs(value):  # not of the hub
        return None
    path = Path(value)
    return next((at for at in (path, *path.parents) if at.name in SETS and not at.exists()), None)


def _how_to_get(folder: Path, folders: Sequence[Path]) -> str:
    """One command for all sets that belong beside this one."""
    names = [name for name in SETS if folder.with_name(name) in folders]
    out = folder.parent
    return f"get it: icr data get {' '.join(names)}" + (
        "" if out == Path.cwd() / "data" else f" --out {shlex.quote(os.path.relpath(out))}"
    )
