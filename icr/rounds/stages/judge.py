"""Stage "judge": every benchmark of the config on the round's policy."""

from __future__ import annotations

from eval.benchmarks import BENCHMARKS, Evaluation
from icr.rounds.context import Context
from icr.work.runner import Counts


def judge(context: Context) -> Counts:
    """Every benchmark of the config on the round's policy."""
    evaluation = Evaluation(
        config=context.config,
        model=context.trained,
        name=f"{context.run.path.name}-round-{context.round.number}",
        out=context.round.judge,
        judge_model=context.judge_model,
        runner=context.runner,
        round=context.round.number,
        run=context.run.path,
    )
    counts: Counts = {}
    for benchmark in context.config.judge.benchmarks:
        counts |= BENCHMARKS[benchmark](evaluation)
    return counts
