"""Stage "sample" (equation 7)."""

from __future__ import annotations

from icr.rounds.context import Context
from icr.work.runner import Counts
from icr.work.sampling import run_sampling


def sample(context: Context) -> Counts:
    """Eq. 7: N responses of the policy for every prompt of every language."""
    job = context.job(task="sample", model=context.policy)
    counts = run_sampling(context.runner, job, "responses", context.round.responses)
    return {"prompts": len(context.inputs.prompts), **counts}
