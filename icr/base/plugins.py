"""Custom classes: found by name, created, called. An error says what failed."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from icr.base.errors import UserError

Row = TypeVar("Row")
PACKAGES = ("icr", "loops", "prompts", "eval", "configs")
"""Ours. Importing one imports nothing else."""


def load_class(name: str, key: str) -> type[Any]:
    """The class named `name`. A module is searched in the current folder and on PYTHONPATH.

    Args:
        key: the config key that holds the name, for messages.

    Raises:
        UserError: the module cannot be imported, or has no such class.
    """
    module_name, _, class_name = name.rpartition(":")
    module = _import(module_name, key)
    found = getattr(module, class_name, None)
    if not inspect.isclass(found):
        classes = [n for n, c in vars(module).items() if inspect.isclass(c) and c.__module__ == module.__name__]
        raise UserError(
            f"{module_name} has no class {class_name}",
            where=f"{key}: {name}",
            do=f"its classes are {', '.join(classes)}" if classes else "define the class in that file",
        )
    return found


def _import(module_name: str, key: str) -> ModuleType:
    try:
        if module_name.endswith(".py"):
            return _import_file(Path(module_name))
        if os.getcwd() not in sys.path:  # neither a console script nor a worker has the current folder on its path
            for ours in PACKAGES:  # first, so that a folder `eval` or `prompts` there is not taken for ours
                importlib.import_module(ours)
            sys.path.append(os.getcwd())
        return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a user's file may fail in any way while it is imported
        at = ""
        if isinstance(error, SyntaxError):
            at = f" (line {error.lineno} of {error.filename})"
        raise UserError(
            f"{module_name} cannot be imported: {type(error).__name__}: {error}{at}",
            where=f"{key}, searched in {os.getcwd()} and on PYTHONPATH",
            do="check the name before the colon; python -c 'import …' must work in this folder",
        ) from error


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"file {path} not found")
    # under a unique name: a user's random.py or eval.py must not replace the module of that name
    name = f"{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses in the file look themselves up there
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Own:
    """Which config key names a custom class, and which method it needs."""

    key: str
    """The config key that names it."""
    method: str
    """Takes a list of rows, returns a number per row."""
    guide: str
    """The page of the docs with an example."""

    def load(self, name: str) -> type[object]:
        """The class named by `module:Class` or `path/to/file.py:Class`.

        Raises:
            UserError: it cannot be imported, or lacks the method.
        """
        found = load_class(name, self.key)
        if not callable(getattr(found, self.method, None)):
            what = f"{found.__name__} has no method {self.method}"
            raise UserError(what, where=self.where(name), do=f"add this method; see the example in {self.guide}")
        return found

    def make(self, name: str) -> Any:
        """An instance. Raises UserError, also when the class wants arguments."""
        kind = self.load(name)
        try:
            return kind()
        except (Exception, SystemExit) as error:  # a user's class may fail in any way
            traceback.print_exc()
            raise UserError(
                f"{kind.__name__} cannot be created: {type(error).__name__}: {error}",
                where=self.where(name),
                do="its __init__ must take no arguments except self; see the log for the traceback",
            ) from error

    def call(
        self, instance: object, name: str, rows: Sequence[Row], row_name: Callable[[Row], str],
        low: float = -math.inf, high: float = math.inf,
    ) -> list[float]:  # fmt: skip
        """The method's numbers for the rows.

        Args:
            row_name: says in words which row a faulty number belongs to.

        Raises:
            UserError: the method fails, or does not give one finite number from `low` to `high` per row.
        """
        where = self.where(name)
        try:
            found = getattr(instance, self.method)(rows)
            values = [float(value) for value in islice(found, len(rows) + 1)]
        except (Exception, SystemExit) as error:  # a user's method may fail in any way
            traceback.print_exc()
            what = f"{self.method}() failed: {type(error).__name__}: {error}"
            raise UserError(what, where=where, do="fix the method; see the worker's log for the traceback") from error
        if len(values) != len(rows):
            count = len(values) if len(values) < len(rows) else f"more than {len(rows)}"
            what = f"{self.method}() returned {count} numbers for {len(rows)} rows"
            raise UserError(
                what, where=where, do=f"return one number per row, in the same order; see the example in {self.guide}"
            )
        for row, value in zip(rows, values, strict=True):
            if not math.isfinite(value) or not low <= value <= high:
                do = "return finite numbers" if low == -math.inf else f"return numbers from {low:g} to {high:g}"
                raise UserError(f"{self.method}() returned {value}", where=f"{where}, {row_name(row)}", do=do)
        return values

    def where(self, name: str) -> str:
        return f"{self.key}: {name}"
