"""`icr rm look`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from icr.base.errors import UserError
from icr.commands.options import JsonOption, OutOption, QuietOption, print_json, split_codes, stderr, stdout


def look(
    out: OutOption,
    models: Annotated[list[str] | None, typer.Argument(metavar="MODEL", help="Models: folders or hub ids.")] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="FOLDER", help="A folder of icr rm data: shows which words move the scores."),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", metavar="SPLIT", help="Split of --data: validation, train or all.")
    ] = "all",
    parallel: Annotated[
        str | None,
        typer.Option(
            "--parallel",
            metavar="PROMPTS",
            help="Parallel texts, joined by id, in any form of prompts: compares hidden states.",
        ),
    ] = None,
    languages: Annotated[
        str | None, typer.Option("--languages", metavar="LANGS", help="Comma-separated ISO 639-1 codes.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base", metavar="MODEL", help="The model that MODEL was trained from; distances are measured from it."
        ),
    ] = None,
    place: Annotated[
        str,
        typer.Option(
            "--states", metavar="PLACE", help="State of a text: last (its last token) or mean (over its tokens)."
        ),
    ] = "last",
    limit: Annotated[int, typer.Option("--limit", min=2, help="Use only the first N parallel texts.")] = 500,
    rates: Annotated[
        str | None,
        typer.Option(
            "--rates", metavar="CSV", help="Win rates to explain by --features: columns source, target, win_rate."
        ),
    ] = None,
    column: Annotated[str, typer.Option("--column", help="The column of --rates to explain.")] = "win_rate",
    features: Annotated[
        str | None,
        typer.Option(
            "--features", metavar="CSV", help="Features of the languages: a column language, and one for each feature."
        ),
    ] = None,
    json_: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show what scores depend on: words, hidden states, features.

    The page with all figures is OUT/report.html.
    """
    from eval.reward_models.look import Look, look_into
    from icr.report.look import left_out_texts, look_tables, write_look_page

    if split not in ("validation", "train", "all"):
        raise UserError(f"unknown split {split}", where="--split", do="write validation, train or all")
    if place not in ("last", "mean"):
        raise UserError(f"unknown state {place}", where="--states", do="write last or mean")
    codes = split_codes(languages) if languages is not None else None
    asked = Look(models or [], data, split, parallel, codes, limit, base, place, rates, column, features)  # type: ignore[arg-type]
    result = look_into(asked, out, stderr())
    page = write_look_page(result, out)
    if json_:
        print_json(result)
        return
    for table in look_tables(result):
        stdout().print(table)
    for line in left_out_texts(result):
        print(line)
    print(f"page: {page}")
