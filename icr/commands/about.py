"""`icr --version` and `icr env`: what is installed, for bug reports."""

from __future__ import annotations

import os
import platform
from typing import Annotated

import typer

from icr.base.distribution import icr_version
from icr.commands.options import JsonOption, print_json, start_loud

NOT_INSTALLED = "(not installed)"
"""Run from a source tree."""


def _show_version(asked: bool) -> None:
    if asked:
        print(f"icr {icr_version() or NOT_INSTALLED}")
        raise typer.Exit


def options(
    version_: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """The options of `icr` itself."""
    start_loud()


def env(json_: JsonOption = False) -> None:
    """Print versions and hardware for a bug report. Paths, names and keys are left out."""
    from icr.engines.precision import has_bf16
    from icr.engines.sizes import GIB
    from icr.rounds.facts import find_versions
    from icr.work.devices import find_gpus

    found = {
        "icr": icr_version() or NOT_INSTALLED,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor cores": os.cpu_count(),
        "bf16 instructions": has_bf16(),
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / GIB:.0f} GiB",
        "gpus": [f"{gpu.name}, {gpu.total / GIB:.0f} GiB" for gpu in find_gpus()],
        "packages": find_versions(),
    }
    if json_:
        print_json(found)
        return
    for name, value in found.items():
        print(f"{name:<18}{_in_words(value)}")


def _in_words(value: object) -> object:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return " ".join(f"{name} {version}" for name, version in value.items())
    return (", ".join(value) or "none") if isinstance(value, list) else value
