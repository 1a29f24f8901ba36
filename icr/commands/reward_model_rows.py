"""`icr rm eval` and `icr rm bench`: what is measured is a row of their tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.problems import Collector
from icr.commands.options import (
    JsonOption,
    OutOption,
    QuietOption,
    SetOption,
    print_forecast,
    print_json,
    stderr,
    stdout,
)

if TYPE_CHECKING:
    from eval.reward_models.evaluate import Asking
    from eval.reward_models.rows import RewardRow

ModelsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="MODEL", help="Reward models: folders or hub ids.", show_default=False)
]
ImplicitOption = Annotated[
    list[str] | None,
    typer.Option(
        "--implicit", metavar="MODELS", help="Add a row for the implicit reward of POLICY,REFERENCE. May be repeated."
    ),
]
BetaOption = Annotated[float, typer.Option("--beta", help="β of --implicit.")]
PrecisionOption = Annotated[str, typer.Option("--precision", help="Precision of the scoring: auto, fp32 or bf16.")]
JudgesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--judge", metavar="JUDGE", help="local:MODEL, openai:MODEL or a custom module:Class. May be repeated."
    ),
]
JudgePairsOption = Annotated[
    int | None, typer.Option("--judge-pairs", min=1, help="Ask judges about N pairs per language. Default: all.")
]
DryOption = Annotated[
    bool, typer.Option("--dry-run", help="Print what judges would be asked and what it costs; send nothing.")
]


def evaluate(
    data: Annotated[Path, typer.Option("--data", metavar="FOLDER", help="A folder of icr rm data.")],
    out: OutOption,
    models: ModelsArgument = None,
    implicit: ImplicitOption = None,
    judge: JudgesOption = None,
    judge_pairs: JudgePairsOption = None,
    split: Annotated[str, typer.Option("--split", help="validation, train or all.")] = "validation",
    languages: Annotated[
        str | None, typer.Option("--languages", metavar="LANGS", help="Comma-separated ISO 639-1 codes.")
    ] = None,
    beta: BetaOption = 0.1,
    precision: PrecisionOption = "auto",
    dry_run: DryOption = False,
    set_: SetOption = None,
    json_: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure the accuracy of reward models per language.

    Also measures implicit rewards and judges, beside chance, the majority, length and people.
    """
    from eval.reward_models.asked import expect_questions
    from eval.reward_models.evaluate import evaluate_models
    from icr.languages import check_languages
    from prompts.preferences.make import load_data

    if split not in ("validation", "train", "all"):
        raise UserError(f"unknown split {split}", where="--split", do="write validation, train or all")
    codes = [code.strip() for code in languages.split(",")] if languages is not None else None
    check_languages(codes or [], "--languages")
    problems = Collector()
    asked = problems.attempt(None, _find, models, implicit, beta, judge, set_, judge_pairs, precision, "--judge-pairs")
    if asked is None:
        problems.attempt(None, load_data, data, "--data")  # to say all that is wrong at once
    problems.raise_any()
    assert asked is not None
    rows, asking = asked
    if not rows and not asking.judges:
        raise UserError("nothing to measure", where="MODEL", do="name a reward model, --implicit or --judge")
    if dry_run:
        print_forecast(expect_questions(asking, data, split, codes, out), json_)  # type: ignore[arg-type]
        return
    result = evaluate_models(rows, data, split, codes, out, stderr(), precision, asking)  # type: ignore[arg-type]
    if json_:
        print_json(result)
        return
    _print_accuracy(result)
    print(f"all figures: {out}")


def bench(
    on: Annotated[
        str,
        typer.Option("--on", metavar="SOURCE", help="Rows of RewardBench, Multilingual RewardBench or RewardBench 2."),
    ],
    out: OutOption,
    models: ModelsArgument = None,
    implicit: ImplicitOption = None,
    judge: JudgesOption = None,
    judge_pairs: Annotated[
        int | None, typer.Option("--judge-rows", min=1, help="Ask judges about N rows per language. Default: all.")
    ] = None,
    lang: Annotated[str, typer.Option("--lang", help="ISO 639-1 code of rows that do not name their language.")] = "en",
    beta: BetaOption = 0.1,
    precision: PrecisionOption = "auto",
    dry_run: DryOption = False,
    set_: SetOption = None,
    json_: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure reward models on RewardBench, by its own rules.

    Also measures implicit rewards and judges. With none of them, says how often the longer answer is right.
    """
    from eval.reward_models.asked import expect_bench_questions
    from eval.reward_models.bench_rows import read_bench
    from eval.reward_models.benching import bench_models
    from icr.languages import check_languages
    from icr.report.reward_models import agreement_table, bench_table, longer_table

    check_languages([lang], "--lang")
    problems = Collector()
    asked = problems.attempt(None, _find, models, implicit, beta, judge, set_, judge_pairs, precision, "--judge-rows")
    if asked is None:
        problems.attempt([], read_bench, on, lang)  # to say all that is wrong at once
    problems.raise_any()
    assert asked is not None
    rows, asking = asked
    if dry_run:
        print_forecast(expect_bench_questions(asking, on, lang, out), json_)
        return
    result = bench_models(rows, on, lang, out, stderr(), precision, asking)  # type: ignore[arg-type]
    if json_:
        print_json(result)
        return
    if result["models"]:
        stdout().print(bench_table(result))
    stdout().print(longer_table(result["longer"]))
    if result["agreement"]:
        stdout().print(agreement_table(result["agreement"]))
    _print_unscored({name: of["languages"] for name, of in result["judges"].items()})
    print(f"all figures: {out}")


def _find(
    models: Sequence[str] | None,
    implicit: Sequence[str] | None,
    beta: float,
    judges: Sequence[str] | None,
    overrides: Sequence[str] | None,
    most: int | None,
    precision: str,
    counted: str,
) -> tuple[list[RewardRow], Asking]:
    """The rows that are asked for. Raises ConfigError and UserError: everything that is wrong with them.

    Args:
        most, counted: how much judges are asked about, and the option that says so.
    """
    from eval.reward_models.evaluate import Asking
    from icr.experiments.implicit_rows import find_rows

    if precision not in ("auto", "fp32", "bf16"):
        raise UserError(f"unknown precision {precision}", where="--precision", do="write auto, fp32 or bf16")
    if not 0 < beta < inf:
        raise UserError(f"β is {beta:g}", where="--beta", do="write a number above 0")
    if not judges and (overrides or most):
        given = "--set" if overrides else counted
        raise UserError(
            "this option is for judges, and no judge is named",
            where=given,
            do="name a judge with --judge, or leave it out",
        )
    rows, asked = find_rows(models or [], implicit or [], beta, judges or [], overrides or [])
    return rows, Asking(asked, most)


def _print_accuracy(result: Fields) -> None:
    from icr.report.reward_models import accuracy_table, agreement_table, differences_table

    judged = {name: of["languages"] for name, of in result["judges"].items()}
    if result["pairs"] or not result["models"]:
        on_rows, on_pairs = result["models"], result["pairs"] | judged
    else:
        on_rows, on_pairs = result["models"] | judged, {}
    if on_rows:
        stdout().print(accuracy_table(on_rows))
    if on_pairs:
        stdout().print(accuracy_table(on_pairs, "good against bad answers to one document" if result["pairs"] else ""))
    print_dropped(result["models"])
    _print_unscored(judged)
    if result["differences"]:
        stdout().print(differences_table(result))
    if result["agreement"]:
        stdout().print(agreement_table(result["agreement"]))
    for note in result["notes"]:
        print(f"note: {note}")


def print_dropped(models: Mapping[str, Mapping[str, Fields]]) -> None:
    """Rows that a model could not read, by language."""
    for model, languages in models.items():
        dropped = [f"{lang} {found['dropped']}" for lang, found in languages.items() if found["dropped"]]
        if dropped:
            print(f"longer than {model} reads, left out: {', '.join(dropped)}")


def _print_unscored(judges: Mapping[str, Mapping[str, Fields]]) -> None:
    """Pairs without a verdict, by judge and language."""
    for judge, languages in judges.items():
        unscored = [f"{lang} {found['unscored']}" for lang, found in languages.items() if found["unscored"]]
        if unscored:
            print(f"unscored by {judge}: {', '.join(unscored)}")
