"""`icr iterate` and the single stages of a round."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icr.base.errors import IcrError, UserError
from icr.commands.options import (
    ClusterOption,
    JsonOption,
    OfRunOption,
    QuietOption,
    SetOption,
    print_json,
    stderr,
    stdout,
)

if TYPE_CHECKING:
    from icr.config.schema import Config
    from icr.rounds.context import Inputs
    from icr.rounds.controller import Controller


ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="CONFIG",
        help="A YAML file, or the name of a recipe. Default: the run's own, else quickstart.",
    ),
]
RoundOption = Annotated[int, typer.Option("--round", min=0, help="The round.")]


def iterate(
    config: ConfigOption = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", metavar="RUN", help="The run folder. Default: the config's, else runs/NAME-OF-CONFIG."),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Total number of rounds. Raise it to extend a finished run.")
    ] = None,
    from_round: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RUN/round-N",
            help="A round's folder, e.g. runs/a/round-1. Its model becomes π_θ⁰ of a new run.",
        ),
    ] = None,
    objective: Annotated[
        str | None, typer.Option(metavar="OBJECTIVE", help="dpo, kto, or a custom module:Class.")
    ] = None,
    cluster: ClusterOption = None,
    mirror: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Copy the run's files to a bucket after each stage: s3://…, gs://… or file://….",
        ),
    ] = None,
    set_: SetOption = None,
    json_: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run rounds of sample → score → pair → train → judge. Rerun the same command to resume."""
    from icr.report.findings import conclude
    from icr.report.page import write_report
    from icr.report.results import collect
    from icr.report.terminal import print_summary, summaries

    changes: dict[str, object] = {}
    if rounds is not None:
        changes["rounds"] = rounds
    if objective is not None:
        changes["objective"] = objective
    if cluster is not None:
        changes["cluster.address"] = cluster
    with _controller(config, run, set_, changes, from_round, planned=True, mirror=mirror) as controller:
        controller.iterate()
        results = collect(controller.run)
        report = write_report(controller.run, results=results)
        lines = conclude(results, _typed(controller.run.path), demo=run is None and config in (None, "quickstart"))
        if json_:
            judged = summaries(controller.run)
            print_json({"run": controller.run.path, "report": report, "judged": judged, "conclusion": lines})
            return
        print_summary(controller.run, stdout())
        print("", *lines, f"report: {report}", sep="\n")


def _typed(path: Path) -> str:
    """A path as it is typed in the current folder."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


@contextmanager
def _controller(
    config: str | None,
    run: Path | None,
    overrides: list[str] | None,
    changes: dict[str, object] | None = None,
    from_round: Path | None = None,
    *,
    planned: bool = False,
    mirror: str | None = None,
) -> Iterator[Controller]:
    """
    Args:
        planned: say what the run will cost, and refuse what cannot fit.
        mirror: the address of a bucket that gets the run's files.
    """
    from icr.base.rundir import RunDir
    from icr.planning.start import Start
    from icr.report.live import Heartbeat, LivePage
    from icr.rounds.controller import Controller
    from icr.rounds.leftovers import undone_if_refused
    from icr.rounds.mirror import Mirror

    resolved, inputs = _resolve(config, run, overrides, changes or {}, from_round)
    assert resolved.run is not None
    run_dir, console = RunDir(Path(resolved.run)), stderr()
    page = LivePage(run_dir, lambda line: console.print(f"  note: {line}", highlight=False, markup=False))
    updates = [page.update]
    copy = Mirror(run_dir, mirror, lambda line: console.print(f"  {line}", markup=False)) if mirror else None
    if copy:
        updates.append(copy.update)

    def after_stage() -> None:
        """`icr iterate` writes the page itself when nothing is left."""
        for update in updates:
            if update != page.update or not (planned and controller.is_done()):
                update()

    with undone_if_refused(run_dir):
        controller = Controller(run_dir, resolved, inputs, console, after_stage=after_stage)
        try:
            if planned:
                controller.prepare()  # workers import while the plan is made
                say = partial(console.print, highlight=False, markup=False)
                updates.append(Start(run_dir, resolved, inputs, say).update)
        except BaseException:
            controller.close()
            raise
    heart = Heartbeat(run_dir)
    try:
        yield controller
        if copy:
            copy.update()  # of what was written after the last stage
    except IcrError:
        if run_dir.report.exists():
            page.write()  # the page says which stage has failed
        raise
    finally:
        heart.stop()
        controller.close()


def _resolve(
    config: str | None,
    run: Path | None,
    overrides: list[str] | None,
    changes: dict[str, object],
    from_round: Path | None,
) -> tuple[Config, Inputs]:
    """This command's config: the named one, else that of the run, of the source run, or the quickstart."""
    from icr.config.load import find_config
    from icr.rounds.preflight import load_checked

    if config:
        path = find_config(config)
    elif run and (run / "config.yaml").is_file():
        path = run / "config.yaml"
    elif from_round:
        path = from_round.resolve().parent / "config.yaml"
    elif run:
        do = "check the path; for a new run add --config CONFIG"
        raise UserError(f"{run} is not a run", where="--run", do=do)
    else:
        path = find_config("quickstart")
    if from_round:
        changes = {**changes, **_from_round(from_round)}
        if run is None:
            raise UserError(
                "a run that starts from another run's round needs a new folder",
                where="--from",
                do="add --run runs/NAME",
            )
    if run is not None:
        changes["run"] = str(run.resolve())
    resolved, inputs = load_checked(path, overrides or [], changes)
    if resolved.run is None:
        resolved = resolved.model_copy(update={"run": str(Path("runs", path.stem).resolve())})
    return resolved, inputs


def _from_round(folder: Path) -> dict[str, object]:
    """π_θ⁰ is that round's model; π_I is the same as in its run."""
    from icr.base.rundir import RunDir, open_round

    at = open_round(folder, "--from")
    run = at.path.parent
    first = RunDir(run).first_models()

    def find(name: str) -> str:
        """A path of the run folder is relative to it."""
        return str(run / name) if (run / name).is_dir() else name

    policy = find(first["policy"]) if at.is_given else str(at.find_model())
    return {"models.policy": policy, "models.reference": find(first["reference"]), "alignment": None}


def run_stage(name: str, run: Path, number: int) -> None:
    """One stage of one round.

    Raises:
        UserError: run not found, or its config does not have this stage.
    """
    from icr.base.rundir import open_run

    open_run(run)
    with _controller(None, run, None) as controller:
        if (number, name) not in controller.plan.stages():
            raise UserError(
                f"this run has no stage {name} in round {number}",
                where=f"rounds: {controller.config.rounds}, judge.kind: {controller.config.judge.kind}",
                do="choose another round or stage, or add rounds: "
                f"icr iterate --run {shlex.quote(str(run))} --rounds N",
            )
        controller.stage(number, name)  # type: ignore[arg-type]


def stage_command(name: str) -> Callable[..., None]:
    def command(
        run: OfRunOption,
        round_: RoundOption,
        quiet: QuietOption = False,
    ) -> None:
        run_stage(name, run, round_)

    return command
