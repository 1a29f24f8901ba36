"""A user's class with one method that gives a number per row: found, made and called, and what fails is named."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from icr.errors import UserError
from icr.imports import load_class


@dataclass(frozen=True)
class Own:
    """Where a class of the user's own stands in the config, and what it has to have."""

    key: str
    """The config key that names it."""
    method: str
    """Takes a list of rows, returns a number per row."""
    guide: str
    """The page that shows one."""

    def load(self, name: str) -> type[Any]:
        """The class that `module:Class` or `path/to/file.py:Class` stands for.

        Raises:
            UserError: it cannot be imported, or lacks the method.
        """
        found = load_class(name, self.key)
        if not callable(getattr(found, self.method, None)):
            what = f"{found.__name__} has no method {self.method}"
            raise UserError(what, where=self.where(name), do=f"write it; {self.guide} shows one")
        return found

    def make(self, name: str) -> Any:
        """An instance. Raises UserError, also when the class wants arguments."""
        kind = self.load(name)
        try:
            return kind()
        except Exception as error:  # a user's class may fail in any way
            traceback.print_exc()
            raise UserError(
                f"{kind.__name__} cannot be made: {type(error).__name__}: {error}",
                where=self.where(name),
                do="give its __init__ no arguments besides self, or no __init__ at all; the log has the traceback",
            ) from error

    def call(
        self, instance: Any, name: str, rows: list[dict[str, Any]], row_name: Callable[[dict[str, Any]], str],
        low: float = -math.inf, high: float = math.inf,
    ) -> list[float]:  # fmt: skip
        """What the method says of the rows.

        Args:
            row_name: says in words which row a faulty number belongs to.

        Raises:
            UserError: the method fails, or does not give one finite number from `low` to `high` per row.
        """
        where = self.where(name)
        try:
            values = [float(value) for value in getattr(instance, self.method)(rows)]
        except Exception as error:  # a user's method may fail in any way
            traceback.print_exc()
            what = f"{self.method}() failed: {type(error).__name__}: {error}"
            raise UserError(what, where=where, do="mend it; the worker's log has the traceback") from error
        if len(values) != len(rows):
            what = f"{self.method}() gave {len(values)} numbers for {len(rows)} rows"
            raise UserError(what, where=where, do=f"return one per row, in their order; {self.guide} shows one")
        for row, value in zip(rows, values, strict=True):
            if not math.isfinite(value) or not low <= value <= high:
                do = "return finite numbers" if low == -math.inf else f"return numbers from {low:g} to {high:g}"
                raise UserError(f"{self.method}() gave {value}", where=f"{where}, {row_name(row)}", do=do)
        return values

    def where(self, name: str) -> str:
        return f"{self.key}: {name}"
