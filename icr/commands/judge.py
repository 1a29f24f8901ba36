"""`icr judge`: the judge stage of a round, and each benchmark alone on any model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec, TypeVar

import typer

from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.problems import key_elsewhere
from icr.commands.options import (
    DryOption,
    JsonOption,
    LanguagesOption,
    OfRunOption,
    OutOption,
    QuietOption,
    RunOption,
    SetOption,
    print_forecast,
    print_json,
    split_codes,
    stderr,
    stdout,
)

if TYPE_CHECKING:
    from icr.config.evaluation import Benchmark

judge_app = typer.Typer(
    help="Judge a round of a run, or run one benchmark on any model. For a round, give --run and --round.",
    invoke_without_command=True,
    rich_markup_mode=None,
)

P = ParamSpec("P")
T = TypeVar("T")
OPTIONS = {
    "judge.mtbench.questions": "--questions",
    "judge.mtbench.references": "--references",
    "judge.mtbench.limit": "--limit",
    "judge.nlp.tasks": "--tasks",
    "judge.nlp.include_path": "--include-path",
    "judge.prompts": "--prompts",
}
"""Key of an evaluation's config → the option that sets it."""
ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="Hub id, folder or .gguf file; or a folder of answers.")
]
JudgeOption = Annotated[
    str,
    typer.Option(
        "--judge",
        metavar="JUDGE",
        help="local:MODEL, openai:MODEL (key from OPENAI_API_KEY), or a custom module:Class.",
    ),
]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="Use only the first N items.")]


@judge_app.callback()
def judge(
    context: typer.Context,
    run: RunOption = None,
    round_: Annotated[int | None, typer.Option("--round", min=0, help="The round.")] = None,
    quiet: QuietOption = False,
) -> None:
    if context.invoked_subcommand is not None:
        return
    if run is None or round_ is None:
        raise UserError(
            "no round and no benchmark is given",
            where="icr judge",
            do="name a round (--run RUN --round N), or a benchmark: xalpaca, mtbench, accuracy, nlp, diff, audit",
        )
    from icr.commands.runs import run_stage

    run_stage("judge", run, round_)


@judge_app.command()
def xalpaca(
    model: ModelArgument,
    judge: JudgeOption,
    baseline: Annotated[
        Path,
        typer.Option(
            "--baseline", metavar="ANSWERS", help="Folder of the baseline's answers: LANG.json or LANG.jsonl."
        ),
    ],
    languages: LanguagesOption,
    out: OutOption,
    prompts: Annotated[
        str | None,
        typer.Option(
            "--prompts",
            metavar="PROMPTS",
            help="Folder of LANG.json or LANG.jsonl, or hf:org/name. Not needed if MODEL is a folder of answers.",
        ),
    ] = None,
    limit: LimitOption = None,
    dry_run: DryOption = False,
    set_: SetOption = None,
    json_: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure win rates against a baseline's answers.

    Win rates are raw and length-controlled, per language.
    """
    section = {"baseline": _path(baseline), "prompts": prompts, "limit": limit}
    data = {"languages": split_codes(languages), "judge": section}
    _evaluate("xalpaca", model, judge, data, set_, out, dry_run, json_)


@judge_app.command()
def accuracy(
    run: OfRunOption,
    round_: Annotated[int, typer.Option("--round", min=1, help="The round whose pairs are judged.")],
    judge: Annotated[
        str | None, typer.Option("--judge", metavar="JUDGE", help="Use this judge instead of the run's.")
    ] = None,
    pairs: Annotated[int, typer.Option("--pairs", min=1, help="Pairs per language.")] = 100,
    set_: SetOption = None,
    json_: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure how often judge and reward agree (Table 1 of the paper)."""
    from eval.evaluate import agreement

    summary = agreement(run, round_, judge, pairs, set_ or [], stderr())
    _show("accuracy", summary, json_)


@judge_app.command()
def mtbench(
    model: ModelArgument,
    judge: Annotated[
        str,
        typer.Option(
            "--judge",
            metavar="JUDGE",
            help="local:MODEL or openai:MODEL (key from OPENAI_API_KEY). A custom class cannot grade.",
        ),
    ],
    questions: Annotated[
        Path, typer.Option("--questions", metavar="FOLDER", help="Folder of LANG.jsonl in FastChat's format.")
    ],
    languages: LanguagesOption,
    out: OutOption,
    references: Annotated[
        str | None,
        typer.Option(
            "--references",
            metavar="FOLDER",
            help="Folder of LANG.jsonl with reference answers, or the word judge: the judge writes missing ones.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Use only the first N questions of each category.")
    ] = None,
    dry_run: DryOption = False,
    set_: SetOption = None,
    json_: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Grade the answers to two-turn questions from 1 to 10."""
    section = {"questions": _path(questions), "references": references, "limit": limit}
    data = {"languages": split_codes(languages), "judge": {"mtbench": section}}
    _evaluate("mtbench", model, judge, data, set_, out, dry_run, json_)


@judge_app.command()
def nlp(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Hub id, folder or .gguf file.")],
    languages: LanguagesOption,
    out: OutOption,
    tasks: Annotated[
        str, typer.Option("--tasks", metavar="TASKS", help="paper, or comma-separated lm-eval task names.")
    ] = "paper",
    include_path: Annotated[
        Path | None, typer.Option("--include-path", metavar="FOLDER", help="Folder of custom task files.")
    ] = None,
    limit: LimitOption = None,
    set_: SetOption = None,
    json_: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run NLP tasks with lm-eval.

    These are ARC, HellaSwag, MMLU and TruthfulQA (Table 4 of the paper), or custom tasks.
    """
    names = "paper" if tasks == "paper" else [name.strip() for name in tasks.split(",") if name.strip()]
    section = {"tasks": names, "include_path": _path(include_path), "limit": limit}
    data = {"languages": split_codes(languages), "judge": {"nlp": section}}
    _evaluate("nlp", model, None, data, set_, out, False, json_)


@judge_app.command()
def diff(
    first: Annotated[
        Path,
        typer.Argument(metavar="FIRST", help="An evaluation folder: RUN/round-N/judge, or an --out folder."),
    ],
    second: Annotated[
        Path,
        typer.Argument(metavar="SECOND", help="Another one, judged on the same items by the same judge."),
    ],
    benchmark: Annotated[str, typer.Option("--benchmark", metavar="NAME", help="xalpaca or mtbench.")] = "xalpaca",
    json_: JsonOption = False,
) -> None:
    """Compare two evaluations on the same items.

    Differences are SECOND minus FIRST, with 95 % intervals.
    """
    from eval.difference import READERS, compare
    from icr.report.evaluation_tables import difference_table

    if benchmark not in READERS:
        raise UserError(
            f"{benchmark} cannot be compared item by item", where="--benchmark", do=f"use {' or '.join(READERS)}"
        )
    result = compare(first, second, benchmark)
    if json_:
        print_json(result)
    else:
        stdout().print(difference_table(result, str(first), str(second)))


def _evaluate(
    benchmark: Benchmark,
    model: str,
    judge: str | None,
    data: Fields,
    overrides: list[str] | None,
    out: Path,
    dry_run: bool,
    json_: bool,
) -> None:
    from eval.estimate import estimate
    from eval.evaluate import evaluate, evaluation_config
    from eval.standing import SETTINGS_FILE
    from icr.base.outputs import refuse_other_files

    refuse_other_files(out, SETTINGS_FILE, where="--out")
    config = evaluation_config(benchmark, model, judge, data, overrides or [])
    if dry_run:
        print_forecast(_in_options(estimate)(config, out), json_)
        return
    _show(benchmark, _in_options(evaluate)(config, out.resolve(), stderr()), json_)
    if not json_:
        print(f"\nall files: {out}")


def _in_options(action: Callable[P, T]) -> Callable[P, T]:
    """The action with problems that name what was given by options as the user gave it."""
    for key, option in OPTIONS.items():
        action = key_elsewhere(key, option, action)
    return action


def _show(benchmark: str, summary: Fields, json_: bool) -> None:
    from icr.report.evaluation_tables import TABLES

    if json_:
        print_json(summary)
    else:
        stdout().print(TABLES[benchmark](summary))


def _path(path: Path | None) -> str | None:
    return str(path.resolve()) if path is not None else None
