"""Results go to stdout, messages to stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from icr.base.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console


SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a config key: key=value, e.g. judge.budget=5. May be repeated."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


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

    return Console(stderr=True)
