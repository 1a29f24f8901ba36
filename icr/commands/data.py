"""`icr data`: public data in the form that the recipes name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icr.commands.options import OUTPUT, JsonOption, QuietOption, print_json, stderr

if TYPE_CHECKING:
    from prompts.fetch import Fetched

data_app = typer.Typer(
    name="data",
    help="Get the public data that the paper and the recipes use.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@data_app.callback()
def data() -> None:
    """Get the public data that the paper and the recipes use."""


@data_app.command()
def get(
    names: Annotated[
        list[str], typer.Argument(metavar="DATA", help="One or more of ultrafeedback, x_alpacaeval, mt_bench.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            file_okay=False,
            help="Parent folder; gets one folder per data set.",
            rich_help_panel=OUTPUT,
        ),
    ] = Path("data"),
    clone: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="A clone of the data's git repository, used instead of the network. May be repeated.",
        ),
    ] = None,
    json_: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Fetch public data with git, and convert it.

    These are prompts, questions and reference answers. Existing data are kept.
    """
    from dataclasses import asdict

    from prompts.fetch import fetch

    found = []
    console = stderr()

    def note(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    for name in names:
        fetched = fetch(name, out, clone or [], note)
        if not json_:
            _show(fetched)
        found.append(asdict(fetched))
    if json_:
        print_json(found)


def _show(fetched: Fetched) -> None:
    """Rows by folder and language, and what was left out."""
    folders: dict[Path, list[str]] = {}
    for path, count in fetched.rows.items():
        file = fetched.folder / path
        folders.setdefault(file.parent, []).append(f"{file.stem} {count:,}")
    state = "" if fetched.new else " (already there, unchanged)"
    print(f"{fetched.folder}{state}")
    for folder, counts in folders.items():
        name = "" if folder == fetched.folder else f"{folder.relative_to(fetched.folder)}: "
        print(f"  {name}{', '.join(counts)}")
    for what in fetched.left_out:
        print(f"  left out: {what}")
    print(f"  source and licence: {fetched.folder / 'README.md'}")
