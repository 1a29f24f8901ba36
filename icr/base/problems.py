"""Collects problems, so that a user sees all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from icr.base.errors import ConfigError, UserError

P = ParamSpec("P")
T = TypeVar("T")


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
