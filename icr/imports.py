"""A class of the user's own, in a file outside the package, found by `module:Class` or `path/to/file.py:Class`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from icr.errors import UserError


def load_class(name: str, key: str) -> type[Any]:
    """The class that `name` stands for. A module is looked for in the current folder and on PYTHONPATH.

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
            sys.path.append(os.getcwd())  # last, so that a folder `eval` or `prompts` there is not taken for ours
        return importlib.import_module(module_name)
    except Exception as error:  # a user's file may fail in any way while it is imported
        at = ""
        if isinstance(error, SyntaxError):
            at = f" (line {error.lineno} of {error.filename})"
        raise UserError(
            f"{module_name} cannot be imported: {type(error).__name__}: {error}{at}",
            where=f"{key}, looked for in {os.getcwd()} and on PYTHONPATH",
            do="check the name before the colon, and that python -c 'import …' works from this folder",
        ) from error


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    # under a name that is nobody else's: a user's random.py or eval.py must not be taken for the one of that name
    name = f"{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses in the file look themselves up there
    spec.loader.exec_module(module)
    return module
