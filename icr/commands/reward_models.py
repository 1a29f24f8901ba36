"""`icr rm`: data for reward models, their training and their measurement."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.commands.look import look
from icr.commands.options import (
    OUTPUT,
    JsonOption,
    OutRunOption,
    QuietOption,
    TrainSetOption,
    load_checked,
    print_json,
    stderr,
    stdout,
)
from icr.commands.reward_model_rows import bench, evaluate, print_dropped
from icr.commands.translate_data import translate

if TYPE_CHECKING:
    from prompts.preferences.make import DataReport

rm_app = typer.Typer(
    name="rm",
    help="Make, measure and inspect reward models.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@rm_app.command()
def data(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE", help="jsonl, json, csv, tsv or parquet files (also .gz), or hf:org/name."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="FOLDER",
            file_okay=False,
            help="Output folder. Must be new or empty.",
            rich_help_panel=OUTPUT,
        ),
    ],
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORM",
            help="Form of the sources, e.g. oasst (docs/reward-models.md). Default: found by their columns.",
        ),
    ] = None,
    lang: Annotated[
        str | None, typer.Option("--lang", help="ISO 639-1 code of rows that do not name their language.")
    ] = None,
    validation: Annotated[
        float, typer.Option("--validation", min=0, help="Share or number of rows to hold back, in whole groups.")
    ] = 0.05,
    validation_source: Annotated[
        list[str] | None,
        typer.Option(
            "--validation-source", metavar="SOURCE", help="Use these rows for validation instead. May be repeated."
        ),
    ] = None,
    drop_overlap: Annotated[
        bool, typer.Option("--drop-overlap", help="Leave out training rows whose group is also in the validation.")
    ] = False,
    question: Annotated[
        str, typer.Option("--question", metavar="COLUMN", help="Column of Seahorse that is the label.")
    ] = "question6",
    documents: Annotated[
        str | None, typer.Option("--documents", metavar="TABLE", help="Table of gem_id and document for Seahorse.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the choice of held-out groups.")] = 42,
    json_: JsonOption = False,
) -> None:
    """Convert preference data to one table, split by prompt."""
    from icr.languages import check_languages
    from prompts.preferences.forms import Options, read_documents
    from prompts.preferences.make import make_data

    if lang is not None:
        check_languages([lang], "--lang")
    if validation >= 1 and not validation.is_integer():
        do = "write a share below 1, or a whole number of rows"
        raise UserError(f"{validation:g} is neither a share nor a number of rows", where="--validation", do=do)
    options = Options(format_, lang, question, read_documents(documents) if documents else {})
    report = make_data(
        sources,
        out,
        options,
        validation=validation,
        given=validation_source or [],
        drop_overlap=drop_overlap,
        seed=seed,
    )
    if json_:
        print_json(asdict(report))
    else:
        _print_data(report, out)


rm_app.command()(translate)


@rm_app.command()
def train(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="A YAML file, or the name of a recipe (docs/reward-models.md).")
    ],
    run: OutRunOption = None,
    set_: TrainSetOption = None,
    json_: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a reward model on pairs or ratings.

    Rerun the same command to resume.
    """
    from icr.config.reward_model import RewardModelConfig
    from icr.experiments.reward_inputs import check_inputs
    from icr.experiments.reward_model import train_reward_model

    found = load_checked(RewardModelConfig, config, set_, run, check_inputs)
    result = train_reward_model(found, stderr())
    if json_:
        print_json(result)
        return
    _print_training(result)
    print(f"model: {Path(found.run or '') / 'model'}")


def _print_training(result: Fields) -> None:
    from icr.report.reward_models import accuracy_table

    training = result["training"]
    best = training.get("validation")
    print(f"{training['rows']} rows, {training['steps']} steps" + (
        f"; lowest validation loss {best['loss']:.4f} after step {best['step']}" if best else ""
    ))  # fmt: skip
    for part, figures in result["gap"].items():
        print(f"{part}: loss {figures['loss']:.4f}, accuracy {100 * figures['accuracy']:.1f} %")
    for reason, what in (("too_long", "too long"), ("read_alike", "both responses the same tokens")):
        for part, counts in training.get(reason, {}).items():
            print(f"{what}, left out ({part}): " + ", ".join(f"{lang} {count}" for lang, count in counts.items()))
    stdout().print(accuracy_table({"": result["languages"]}))
    print_dropped({"the model": result["languages"]})


def _print_data(report: DataReport, out: Path) -> None:
    from icr.report.reward_models import data_table

    stdout().print(data_table(report))
    for lang, tally in report.languages.items():
        if tally.left_out:
            print(f"{lang} left out: " + ", ".join(f"{count} {reason}" for reason, count in tally.left_out.items()))
    for note in report.notes:
        print(f"note: {note}")
    print(f"{report.kind}: {out}")


rm_app.command("eval")(evaluate)
rm_app.command()(bench)
rm_app.command()(look)
