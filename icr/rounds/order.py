"""What has to be done before a stage of a run."""

from __future__ import annotations

from icr.base.errors import UserError
from icr.base.rundir import RunDir, Stage
from icr.rounds.plan import RunPlan, step_name
from icr.work.steps import Graph


def require_earlier(run: RunDir, plan: RunPlan, number: int, stage: Stage) -> None:
    """Raises UserError: a stage that this one needs is not done."""
    records = {
        step_name(n, s): record for n, s in plan.stages() if (record := run.round(n).record.stages.get(s)) is not None
    }
    for step in Graph(plan.steps()).missing(step_name(number, stage), records):
        owner, _, name = step.name.partition("/")
        n = owner.removeprefix("round-")
        raise UserError(
            f"stage {name} of round {n} is not done",
            where=str(run.round(int(n)).path),
            do=f"run it first: icr {f'{name} --round {n}' if n != '0' else 'iterate'} --run {run.path}",
        )
