"""Results go to stdout, messages and progress to stderr; `--json` and `--quiet` in one way for all commands."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from icr.base.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console


SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a config key: key=value, e.g. judge.budget=5. May be repeated."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON, alone on stdout.")]
_QUIET = False
"""Whether this command was asked to be quiet. A command is a process."""


def _be_quiet(asked: bool) -> None:
    global _QUIET
    _QUIET = _QUIET or asked  # a group and its command both have the option


def start_loud() -> None:
    """Forget the `--quiet` of an earlier command in this process."""
    global _QUIET
    _QUIET = False


QuietOption = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Show no progress and no notes, only results and errors.", callback=_be_quiet),
]


def print_json(result: object) -> None:
    """A result alone on stdout. Paths become texts."""
    print(json.dumps(result, ensure_ascii=False, indent=2, default=str))


def split_codes(languages: str) -> list[str]:
    """The codes of `--languages`. Raises UserError where there are none."""
    codes = [code.strip() for code in languages.split(",") if code.strip()]
    if not codes:
        raise UserError("no language is given", where="--languages", do="write codes such as es,sw,th")
    return codes


def stdout() -> Console:
    from rich.console import Console

    return Console()


def stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True, quiet=_QUIET)
