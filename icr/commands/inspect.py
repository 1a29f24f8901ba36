"""`icr status`, `best`, `report`, `validate` and `lc`: commands that run no round."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from icr.base.errors import ConfigError, UserError
from icr.commands.options import ConfigArgument, JsonOption, RunArgument, SetOption, print_json, stdout

AnyRunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, also of icr transfer.")]


def status(run: AnyRunArgument, json_: JsonOption = False) -> None:
    """Show how far a run is and what is next."""
    from icr.base.lock import is_held
    from icr.base.rundir import open_run
    from icr.report.status import status_json, status_table
    from icr.report.transfer_status import is_transfer, transfer_status_json, transfer_status_table

    if is_transfer(run):
        held = is_held(run / ".lock")
        if json_:
            print_json(transfer_status_json(run, held))
        else:
            stdout().print(transfer_status_table(run, held))
        return
    folder = open_run(run)
    held = is_held(folder.lock)
    if json_:
        print_json(status_json(folder, held))
    else:
        stdout().print(status_table(folder, held))


def best(run: RunArgument, json_: JsonOption = False) -> None:
    """Say which round's model to take, and why."""
    from dataclasses import asdict

    from icr.base.rundir import open_run
    from icr.rounds.best import find_best

    found = find_best(open_run(run))
    if json_:
        print_json(asdict(found))
        return
    print(f"take round {found.number}: {found.model}")
    for step in found.steps:
        print(f"  {step.explain()}")


def report(run: RunArgument, json_: JsonOption = False) -> None:
    """Write RUN/report.html and print the tables."""
    from icr.base.rundir import open_run
    from icr.report.page import write_report
    from icr.report.terminal import print_summary, summaries

    folder = open_run(run)
    path = write_report(folder, lambda line: print(f"note: {line}", file=sys.stderr))
    if json_:
        print_json({"report": path, "judged": summaries(folder)})
        return
    print_summary(folder, stdout())
    print(f"\nreport: {path}")


def validate(
    config: ConfigArgument,
    set_: SetOption = None,
    show_prompts: Annotated[
        bool, typer.Option("--show-prompts", help="Print what the models will read: one prompt of each language.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """List every problem of a config at once. No model is loaded."""
    from eval.power import describe_plans
    from icr.config.load import find_config
    from icr.rounds import templates
    from icr.rounds.preflight import load_checked
    from icr.rounds.room import describe_room

    try:
        checked, inputs = load_checked(find_config(config), set_ or [])
    except UserError as error:
        if json_:
            problems = error.problems if isinstance(error, ConfigError) else [error]
            print_json({"fine": False, "problems": [{"what": p.what, "where": p.where, "do": p.do} for p in problems]})
        raise
    shown = list(templates.show_prompts(checked, inputs)) if show_prompts else []
    languages = sorted({p.lang for p in inputs.prompts})
    lines = [
        *(f"note: {note}" for note in inputs.notes),
        *describe_plans(checked.judge, checked.prompts.languages, inputs.heldout),
        *describe_room(checked, inputs),
    ]
    if json_:
        sizes = {"languages": languages, "prompts": len(inputs.prompts), "held_out": len(inputs.heldout)}
        print_json({"fine": True, **sizes, "notes": lines, "shown": shown})
        return
    print(*shown, sep="\n", end="\n" if shown else "")
    print(f"{config} is fine: {len(inputs.prompts)} prompts in {', '.join(languages)}, {len(inputs.heldout)} held out")
    print(*lines, sep="\n", end="\n" if lines else "")


def lc(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="csv or parquet with the columns preference, len_model, len_baseline and, if you have it, index.",
        ),
    ],
    difficulty: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Difficulty of each item: columns index, difficulty.")
    ] = None,
    gamed: Annotated[Path | None, typer.Option(metavar="CSV", help="The judged pairs of the gamed baselines.")] = None,
    json_: JsonOption = False,
) -> None:
    """Compute win rates of judged pairs, raw and length-controlled."""
    from dataclasses import asdict

    from eval.xalpaca.judged_pairs import read_difficulty, read_gamed, read_judged_pairs
    from eval.xalpaca.lc import length_controlled

    result = length_controlled(
        read_judged_pairs(file),
        read_difficulty(difficulty) if difficulty else None,
        read_gamed(gamed) if gamed else None,
    )
    if json_:
        print_json({key: value for key, value in asdict(result).items() if key != "moves"})
        return
    for name, rate, error in (
        ("win rate", result.win_rate, result.win_rate_se),
        ("length-controlled win rate", result.lc_win_rate, result.lc_win_rate_se),
    ):
        print(f"{name:<28}{rate:6.2f} %" + (f" ± {error:.2f}" if error is not None else ""))
    print(f"{result.n} judged pairs, {result.unscored} unscored, fitted as {result.variant}")
    if result.note:
        print(result.note)
