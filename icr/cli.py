"""The command line. Heavy imports live inside the commands, so that --help answers at once."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from icr.cli_compare import compare
from icr.cli_judge import judge_app
from icr.cli_options import JsonOption, SetOption
from icr.cli_prompts import prompts_app
from icr.cli_streams import stderr, stdout
from icr.errors import IcrError, UserError, explain_os_error

if TYPE_CHECKING:
    from icr.config import Config
    from icr.controller import Controller

app = typer.Typer(
    name="icr",
    help="Align a language model in many languages with the reward its English alignment left behind.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ConfigOption = Annotated[str | None, typer.Option("--config", help="A YAML file, or the name of a recipe in configs/.")]
RunOption = Annotated[Path | None, typer.Option("--run", help="The run folder.", show_default=False)]
RunArgument = Annotated[Path, typer.Argument(help="A run folder.")]
RoundOption = Annotated[int, typer.Option("--round", min=0, help="The round.")]


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM. Not KeyboardInterrupt, which typer would answer itself, without a word about resuming."""


def main() -> None:
    """The `icr` command: 0 done, 2 the user's input is wrong, 1 our fault, 130 interrupted."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        app()
    except Interrupted:
        _say("interrupted; nothing that was finished is lost. To go on:\n  " + _resume_command())
        sys.exit(130)
    except UserError as error:
        _say(f"error: {error}")
        sys.exit(2)
    except OSError as error:
        known = explain_os_error(error)
        if known is None:
            raise
        _say(f"error: {known}")
        sys.exit(2)
    except IcrError as error:
        _say(f"failed: {error}\n  finished work is kept; to try again:\n  {_resume_command()}")
        sys.exit(1)


def _interrupt(number: int, frame: Any) -> None:
    raise Interrupted


def _resume_command() -> str:
    return shlex.join(["icr", *sys.argv[1:]])


def _say(text: str) -> None:
    print(text, file=sys.stderr)


@app.command()
def iterate(
    config: ConfigOption = None,
    run: RunOption = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds in all; may grow on a finished run.")] = None,
    from_round: Annotated[
        Path | None, typer.Option("--from", help="A round's folder: its model becomes π_θ⁰ of a new run.")
    ] = None,
    objective: Annotated[str | None, typer.Option(help="dpo, kto, or your own module:Class.")] = None,
    set_: SetOption = None,
) -> None:
    """Run rounds of sample → score → pair → train → judge; the same command resumes."""
    from icr.report import write_report
    from icr.tables import print_summary

    changes: dict[str, Any] = {}
    if rounds is not None:
        changes["rounds"] = rounds
    if objective is not None:
        changes["objective"] = objective
    with _controller(config, run, set_, changes, from_round) as controller:
        controller.iterate()
        report = write_report(controller.run)
        print_summary(controller.run, stdout())
        print(f"\nreport: {report}")


@contextmanager
def _controller(
    config: str | None,
    run: Path | None,
    overrides: list[str] | None,
    changes: dict[str, Any] | None = None,
    from_round: Path | None = None,
) -> Iterator[Controller]:
    from icr.controller import Controller
    from icr.rundir import RunDir

    resolved = _resolve(config, run, overrides, changes or {}, from_round)
    assert resolved.run is not None
    controller = Controller(RunDir(Path(resolved.run)), resolved, stderr())
    try:
        yield controller
    finally:
        controller.close()


def _resolve(
    config: str | None, run: Path | None, overrides: list[str] | None, changes: dict[str, Any], from_round: Path | None
) -> Config:
    """The config of this command: named, or the run's own, or the source run's, or the quickstart."""
    from icr.configfile import find_config
    from icr.preflight import load_checked

    if config:
        path = find_config(config)
    elif run and (run / "config.yaml").is_file():
        path = run / "config.yaml"
    elif from_round:
        path = from_round.resolve().parent / "config.yaml"
    else:
        path = find_config("quickstart")
    if from_round:
        changes = {**changes, **_from_round(from_round)}
        if run is None:
            raise UserError(
                "a run from another run's round needs a folder of its own", where="--from", do="add --run runs/NAME"
            )
    if run is not None:
        changes["run"] = str(run.resolve())
    resolved = load_checked(path, overrides or [], changes)
    if resolved.run is None:
        resolved = resolved.model_copy(update={"run": str(Path("runs", path.stem).resolve())})
    return resolved


def _from_round(folder: Path) -> dict[str, Any]:
    """π_θ⁰ is that round's model; π_I stays the one of its run."""
    from icr.files import read_json

    names = folder.resolve().parent / "round-0" / "model.json"
    if not names.is_file():
        raise UserError(f"{folder} is not a round of a run", where="--from", do="name a folder such as runs/a/round-1")
    if folder.resolve().name == "round-0":
        policy = read_json(names)["policy"]
    elif (folder / "model").is_dir():
        policy = str((folder / "model").resolve())
    else:
        raise UserError(
            f"{folder} has no trained model yet", where="--from", do="finish that round first, or name another"
        )
    return {"models.policy": policy, "models.reference": read_json(names)["reference"], "alignment": None}


def run_stage(name: str, run: Path, number: int) -> None:
    """One stage of one round.

    Raises:
        UserError: no such run, or a stage that its config does not have.
    """
    from icr.rundir import open_run

    open_run(run)
    with _controller(None, run, None) as controller:
        if (number, name) not in controller.plan():
            raise UserError(
                f"this run has no stage {name} in round {number}",
                where=f"rounds: {controller.config.rounds}, judge.kind: {controller.config.judge.kind}",
                do="choose another round or stage, or grow the run: icr iterate --rounds N",
            )
        controller.stage(number, name)  # type: ignore[arg-type]


def _stage(name: str) -> Callable[..., None]:
    def command(run: Annotated[Path, typer.Option("--run", help="The run folder.")], round_: RoundOption) -> None:
        run_stage(name, run, round_)

    return command


for _name, _help in {
    "sample": "Sample N responses per prompt from the round's policy (Eq. 7).",
    "score": "Reward the responses, with the length penalty α fitted per language (Eq. 9, 15).",
    "pair": "Make best/worst pairs (Eq. 10).",
    "train": "Train the next policy on the pairs (Eq. 11 or 16).",
}.items():
    app.command(_name, help=_help)(_stage(_name))
app.add_typer(judge_app, name="judge")
app.add_typer(prompts_app, name="prompts")


app.command()(compare)


@app.command()
def status(run: RunArgument, json_: JsonOption = False) -> None:
    """Where a run stands: rounds × stages, seconds, and what is next."""
    from icr.lock import is_held
    from icr.rundir import open_run
    from icr.tables import status_json, status_table

    folder = open_run(run)
    held = is_held(folder.lock)
    if json_:
        print(json.dumps(status_json(folder, held), indent=2))
    else:
        stdout().print(status_table(folder, held))


@app.command()
def report(run: RunArgument) -> None:
    """Write RUN/report.html and print the tables."""
    from icr.report import write_report
    from icr.rundir import open_run
    from icr.tables import print_summary

    folder = open_run(run)
    path = write_report(folder)
    print_summary(folder, stdout())
    print(f"\nreport: {path}")


@app.command()
def validate(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of a recipe.")], set_: SetOption = None
) -> None:
    """Every problem of a config at once, before any model is loaded."""
    from icr.configfile import find_config
    from icr.preflight import load_checked, preflight

    inputs = preflight(load_checked(find_config(config), set_ or []))
    languages = sorted({p.lang for p in inputs.prompts})
    print(f"{config} is fine: {len(inputs.prompts)} prompts in {', '.join(languages)}, {len(inputs.heldout)} held out")


@app.command()
def lc(
    file: Annotated[Path, typer.Argument(help="csv or parquet: preference, len_model, len_baseline[, index].")],
    difficulty: Annotated[Path | None, typer.Option(help="csv: index, difficulty.")] = None,
    gamed: Annotated[Path | None, typer.Option(help="csv of the gamed baselines' judged pairs.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Raw and length-controlled win rate of a table of judged pairs."""
    from dataclasses import asdict

    from eval.lc import length_controlled
    from eval.lc_table import read_difficulty, read_gamed, read_judged_pairs

    result = length_controlled(
        read_judged_pairs(file),
        read_difficulty(difficulty) if difficulty else None,
        read_gamed(gamed) if gamed else None,
    )
    if json_:
        print(json.dumps(asdict(result)))
        return
    for name, rate, error in (
        ("win rate", result.win_rate, result.win_rate_se),
        ("length-controlled win rate", result.lc_win_rate, result.lc_win_rate_se),
    ):
        print(f"{name:<28}{rate:6.2f} %" + (f" ± {error:.2f}" if error is not None else ""))
    print(f"{result.n} judged pairs, {result.unscored} unscored, fitted as {result.variant}")
    if result.note:
        print(result.note)


if __name__ == "__main__":
    main()
