"""`icr human`: people in the place of a judge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from icr.commands.options import OUTPUT, JsonOption, LanguagesOption, print_json, split_codes, stdout

human_app = typer.Typer(
    name="human",
    help="Have people compare answers blind, and read their votes.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@human_app.command()
def export(
    answers: Annotated[
        Path,
        typer.Argument(metavar="ANSWERS", help="Folder of a model's answers: LANG.json, .jsonl, .csv or .parquet."),
    ],
    baseline: Annotated[
        Path, typer.Option("--baseline", metavar="ANSWERS", help="Folder of the answers to compare with.")
    ],
    languages: LanguagesOption,
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FOLDER", file_okay=False, help="Output folder.", rich_help_panel=OUTPUT),
    ],
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Draw N prompts of each language.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the draw and of the shuffling.")] = 42,
) -> None:
    """Write blinded, shuffled pairs of answers.

    People vote on the page or in pairs.csv. Keep key.json from them.
    """
    from eval.human import KEY, PAIRS, export_pairs
    from icr.report.human import write_vote_page

    pairs, same = export_pairs(answers, baseline, split_codes(languages), out, limit, seed)
    write_vote_page(out / "vote.html", pairs)
    left = ", ".join(f"{lang} {count}" for lang, count in same.items() if count)
    print(f"{len(pairs)} pairs: {out / 'vote.html'} or {out / PAIRS}")
    if left:
        print(f"identical answers, left out: {left}")
    print(f"not for those who vote: {out / KEY}")


@human_app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The --out folder of icr human export.")],
    votes: Annotated[
        list[Path],
        typer.Argument(metavar="CSV", help="Files of votes: columns pair, vote, and rater where several vote."),
    ],
    judge: Annotated[
        list[Path] | None,
        typer.Option("--judge", metavar="EVALUATION", help="An evaluation of the same answers. May be repeated."),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Read people's votes.

    Prints win rates, and how far people agree with each other and with judges.
    """
    from eval.human import LABELS, import_votes
    from icr.report.human import describe_agreement, people_table

    result = import_votes(folder, votes, judge or [])
    if json_:
        print_json(result)
        return
    stdout().print(people_table(result))
    for line in describe_agreement(result):
        print(line)
    print(f"for icr judge audit --human: {folder / LABELS}")
