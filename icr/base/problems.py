"""Collects problems, so that a user sees all of them at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import wraps
from typing import ParamSpec, TypeVar, cast

from icr.base.errors import ConfigError, UserError

P = ParamSpec("P")
T = TypeVar("T")


STAND_IN = "/(missing)"
"""Stands in for a text that a config lacks, while the rest of it is checked: a path that nobody has."""


class Collector:
    """The problems that were found so far."""

    def __init__(self) -> None:
        self.problems: list[UserError] = []

    def raise_any(self) -> None:
        """Raises ConfigError with all problems, if there are any."""
        if self.problems:
            raise ConfigError(self.problems)

    def add(self, what: str, *, where: str, do: str) -> None:
        self.problems.append(UserError(what, where=where, do=do))

    def attempt(self, default: T, action: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The action's result, or `default` with its problems kept."""
        try:
            return action(*args, **kwargs)
        except ConfigError as error:
            self._extend(error.problems)
        except UserError as error:
            self._extend([error])
        return default

    def _extend(self, problems: Sequence[UserError]) -> None:
        """Two checks may meet the same problem: it is shown once."""
        known = set(map(str, self.problems))
        self.problems.extend(problem for problem in problems if str(problem) not in known)


def load_and_check(load: Callable[[], T], check: Callable[[T], object]) -> T:
    """The settings that `load` reads. Raises ConfigError for what is wrong with them, and then also for what `check`
    finds in those that are not."""
    try:
        return load()
    except ConfigError as error:
        if error.partial is None:
            raise
        found = Collector()
        found.attempt(None, check, cast(T, error.partial))
        others = [problem for problem in found.problems if not _is_of(problem, error.absent)]
        raise ConfigError([*error.problems, *others]) from error


def _is_of(problem: UserError, absent: Sequence[str]) -> bool:
    """Whether a problem is only that of a missing key, which has been named."""
    return STAND_IN in str(problem) or any(re.match(rf"{re.escape(key)}(?![\w-])", problem.where) for key in absent)


def keys_behind(prefix: str, keys: Sequence[str], action: Callable[P, T]) -> Callable[P, T]:
    """The action with problems that name its keys as the user has to write them: `train.epochs` as
    `align.rl.train.epochs`.

    Args:
        prefix: what the user's file has before the keys, with its dot.
        keys: the first parts of the keys that are meant.
    """
    key = re.compile(rf"(?<![\w.:/-])(?=(?:{'|'.join(keys)})(?:\.\w|:|,|$))")

    def rename(problem: UserError) -> UserError:
        do = re.sub(rf"(?<![\w.:/-])(?=(?:{'|'.join(keys)})\.\w)", prefix, problem.do)
        return UserError(problem.what, where=key.sub(prefix, problem.where), do=do)

    return _renaming(rename, action)


def key_elsewhere(key: str, other: str, action: Callable[P, T]) -> Callable[P, T]:
    """The action with problems at `key` named as the user has it: `data.languages` as `languages.sources`."""

    def rename(problem: UserError) -> UserError:
        return UserError(problem.what, where=problem.where.replace(key, other), do=problem.do.replace(key, other))

    return _renaming(rename, action)


def _renaming(rename: Callable[[UserError], UserError], action: Callable[P, T]) -> Callable[P, T]:
    @wraps(action)
    def renamed(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return action(*args, **kwargs)
        except ConfigError as error:
            raise ConfigError(list(map(rename, error.problems)), error.partial, error.absent) from None
        except UserError as error:
            raise rename(error) from None

    return renamed
