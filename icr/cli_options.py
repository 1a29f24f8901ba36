"""Options that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="key=value over the config, such as judge.budget=5; may be repeated."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="For machines.")]
