"""The errors of icr.

IcrError
├── UserError        a problem of the user's input or machine: exit 2, one message, no traceback
│   └── ConfigError  every problem of a config at once
└── StageFailed      a stage's process failed because of us: exit 1, with the tail of its log
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence

SHOWN = 5
"""Names that a message lists before it says how many more there are."""


class IcrError(Exception):
    """Root of everything that icr raises on purpose."""


class UserError(IcrError):
    """What is wrong, where it is, and what to do about it."""

    def __init__(self, what: str, *, where: str = "", do: str = "") -> None:
        super().__init__(what, where, do)
        self.what, self.where, self.do = what, where, do

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.do:
            lines.append(f"  do:    {self.do}")
        return "\n".join(lines)


class ConfigError(UserError):
    """A list of problems, shown together so that a config is fixed in one go."""

    def __init__(self, problems: Sequence[UserError], partial: object = None, absent: Sequence[str] = ()) -> None:
        """
        Args:
            partial: the config without its faults, if that is valid, for further checks.
            absent: keys of it that are missing in the file.
        """
        self.problems, self.partial, self.absent = list(problems), partial, list(absent)
        count = len(self.problems)
        super().__init__(f"{count} problem{'s' if count > 1 else ''} found before anything was loaded")

    def __str__(self) -> str:
        return "\n".join([self.what, *(f"{i}. {p}" for i, p in enumerate(self.problems, 1))])


class StageFailed(IcrError):
    """A worker process ended without a result."""


def some(names: Iterable[str]) -> str:
    """The first names for a message, long ones cut, and how many more there are."""
    every = list(names)
    shown = ", ".join(name if len(name) <= 60 else name[:60] + "…" for name in every[:SHOWN])
    return shown + (f" and {len(every) - SHOWN} more" if len(every) > SHOWN else "")


def explain_os_error(error: OSError) -> UserError | None:
    """A full disk, missing permissions and files in the way are for the user to fix; anything else is not explained."""
    where = str(error.filename or "")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError("the disk is full", where=where, do="free some space, then rerun the same command to continue")
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        do = "check the permissions, or choose a folder that you can read and write"
        return UserError(f"cannot read or write: {(error.strerror or '').lower()}", where=where, do=do)
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return UserError(
            "this is a file, but a folder is needed", where=where, do="move the file, or name another folder"
        )
    if error.errno == errno.EISDIR:
        return UserError(
            "this is a folder, but a file is needed", where=where, do="move the folder, or name another file"
        )
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        do = "use a shorter path, without circular links"
        return UserError(f"not a usable path: {(error.strerror or '').lower()}", where=where, do=do)
    return None
