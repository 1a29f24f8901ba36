"""Before anything is done in a run folder: its records are compared with the config and the files of now."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from icr.base.errors import UserError
from icr.base.rundir import RoundDir, RunDir, Stage, StageRecord
from icr.config.load import load_config
from icr.config.schema import Config
from icr.rounds.benchmarks import follow_benchmarks, with_benchmarks
from icr.rounds.contents import identify_inputs
from icr.rounds.context import Inputs
from icr.rounds.leftovers import forget
from icr.rounds.plan import RunPlan, step_name
from icr.work.settings import append_history
from icr.work.steps import Step, adopt, check_finished, stale, stamp

if TYPE_CHECKING:
    from rich.console import Console


def settle(run: RunDir, plan: RunPlan, inputs: Inputs, console: Console) -> None:
    """Remove unfinished work that no longer matches, and write the config into the run folder.

    Raises:
        UserError: finished steps were made from other inputs or with other settings; the run has more rounds.
    """
    old = _read_config(run, plan.config)
    if plan.config.rounds < max((r.number for r in run.rounds()), default=0):
        raise UserError(
            f"this run already has {run.rounds()[-1].number} rounds, more than {plan.config.rounds}",
            where="rounds",
            do="set rounds to that number or more, or use another --run folder",
        )
    steps = {step.name: step for step in plan.steps()}
    records: dict[str, StageRecord] = {}
    for at in run.rounds():
        for stage, record in at.record.stages.items():
            step = steps.get(step_name(at.number, stage))
            if step is not None:
                records[step.name] = _identify(plan, inputs, at.number, stage, record, old)
    check_finished(steps.values(), records, run.config)
    for (number, stage), step in zip(plan.stages(), steps.values(), strict=True):
        if (known := records.get(step.name)) is not None:
            _settle_step(run.round(number), stage, step, known, console)
    append_history(run.config, old, plan.config, time.strftime("%Y-%m-%d %H:%M:%S"))


def _identify(
    plan: RunPlan, inputs: Inputs, number: int, stage: Stage, record: StageRecord, old: Config
) -> StageRecord:
    """The record with a key, a judge's under the benchmarks of now.

    Args:
        old: the config that the run was last used with.
    """

    def earlier(config: Config) -> Step:
        return RunPlan(config, identify_inputs(config, inputs), plan.precision).step(number, "judge")

    step, settings = plan.step(number, stage), plan.settings(number, stage, old)
    if stage != "judge":
        return adopt(step, record, settings)
    if not record.key:  # its inputs are those of the benchmarks that were judged
        record = adopt(earlier(with_benchmarks(plan.config, old.judge.benchmarks)), record, settings)
    return follow_benchmarks(plan.config, step, record, earlier)


def _settle_step(at: RoundDir, stage: Stage, step: Step, record: StageRecord, console: Console) -> None:
    if record.state != "done" and (changes := stale(step, record)):
        console.print(f"{step.title} starts over: {'; '.join(changes)}", highlight=False, markup=False)
        forget(at, stage)
        record = stamp(step, record.model_copy(update={"parts": {}}))
    if at.record.stages[stage].key != record.key:  # of an older run, or of other benchmarks
        at.write_stage(stage, record)


def _read_config(run: RunDir, new: Config) -> Config:
    """The config that the run was last used with; the new one, when there is none."""
    if not run.config.exists():
        return new
    try:
        return load_config(run.config)
    except UserError as error:
        raise UserError(
            f"this run's config cannot be read by this version of icr: {error}",
            where=str(run.config),
            do="fix the file, or start a new run from a finished round's model with --from",
        ) from error
