"""`icr plan`: what a run will cost, before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from icr.base.errors import UserError
from icr.commands.options import ConfigArgument, JsonOption, QuietOption, SetOption, print_json, stderr, stdout


def plan(
    config: ConfigArgument,
    gpu: Annotated[
        str | None,
        typer.Option("--gpu", metavar="GPU", help="h100, h200, a100, 4090 or cpu. Default: what this machine has."),
    ] = None,
    gpus: Annotated[
        str | None, typer.Option("--gpus", metavar="COUNTS", help="Numbers of GPUs to plan for, e.g. 1,8,64.")
    ] = None,
    probe: Annotated[
        int | None,
        typer.Option("--probe", min=1, help="Let the model answer N prompts first, to measure how long answers are."),
    ] = None,
    parameters: Annotated[
        str | None,
        typer.Option(
            "--parameters", metavar="SIZE", help="Number of parameters of a model that is not on this machine, e.g. 8b."
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", metavar="RUN", help="The run folder; its finished rounds say how long answers are."),
    ] = None,
    set_: SetOption = None,
    json_: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Estimate time, memory, disk and judge costs of a run, by stage. Without --probe no weights are loaded."""
    from icr.base.rundir import RunDir, open_run
    from icr.config.load import find_config
    from icr.planning.facts import read_parameters
    from icr.planning.plan import know, make_plan
    from icr.report.plan_table import plan_json, plan_lines, plan_table
    from icr.rounds.preflight import load_checked

    path = find_config(config)
    if run is not None:
        open_run(run)
    checked, inputs = load_checked(path, set_ or [], {"run": str(run.resolve())} if run else None)
    folder = RunDir(Path(checked.run) if checked.run else Path("runs", path.stem).resolve())
    counts = _read_counts(gpus) if gpus else [None]
    known = know(checked, inputs, folder, gpu=gpu, parameters=read_parameters(parameters) if parameters else None)
    if gpus and known.device.kind == "cpu":
        raise UserError(
            "--gpus counts GPUs, and this plan is for a processor",
            where=f"--gpus {gpus}",
            do="also name a GPU, such as --gpu h100",
        )
    lengths = None
    if probe:
        from icr.planning.probe import probe_lengths

        lengths = probe_lengths(known, probe, stderr())
    costs = [make_plan(known, count, lengths) for count in counts]
    if json_:
        print_json(plan_json(known, costs))
        return
    for cost in costs:
        stdout().print(plan_table(cost))
        for line in plan_lines(known, cost):
            print(line)


def _read_counts(text: str) -> list[int | None]:
    """The numbers of `--gpus`. Raises UserError."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise UserError(f"{text} is not a list of GPU counts", where="--gpus", do="write numbers such as 1,8,64")
    return [int(part) for part in parts]
