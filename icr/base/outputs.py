"""Folders that a command writes into and resumes from.

Not those of runs: a scheduler may have begun a log there.
"""

from __future__ import annotations

from pathlib import Path

from icr.base.errors import UserError, some


def refuse_other_files(out: Path, *ours: str, where: str) -> None:
    """Raises UserError: the folder has files, and not one of those that this command writes first.

    Args:
        ours: names; any one of them marks a folder that the same command may resume in.
        where: the option that names the folder.
    """
    if not out.is_dir() or any((out / name).exists() for name in ours):
        return
    found = sorted(path.name for path in out.iterdir() if not path.name.startswith(".") and path.name != "logs")
    if found:
        raise UserError(
            f"{out} has files of something else: {some(found)}", where=where, do="name a new or an empty folder"
        )
