"""Stage "judge": every benchmark of the config on the round's policy."""

from __future__ import annotations

from pathlib import Path

from eval.benchmarks import BENCHMARKS, Evaluation
from icr.rounds.context import Context
from icr.work.runner import Counts


def judge(context: Context) -> Counts:
    """Every benchmark of the config on the round's policy; those that are done already are not done again."""
    config, round_ = context.config, context.round
    evaluation = Evaluation(
        model=context.trained,
        name=f"{context.run.path.name}-round-{round_.number}",
        out=round_.judge,
        languages=context.languages,
        template=context.template,
        sampling=config.sampling,
        judge=config.judge,
        judge_models=context.judge_models,
        machine=context.machine,
        engine=context.engine,
        key=context.step.key,
        round=round_.number,
        baseline=_find_baseline(context),
        pairs=round_.pairs if round_.number else None,
    )
    counts: Counts = {}
    for benchmark in config.judge.benchmarks:
        if benchmark not in context.parts:
            context.parts[benchmark] = BENCHMARKS[benchmark](evaluation)
            context.save()
        counts |= context.parts[benchmark]
    return counts


def _find_baseline(context: Context) -> Path | None:
    """The folder of answers that the round's are compared with; None for round 0 where it is the baseline."""
    name = context.config.judge.baseline
    if name != "round-0":
        return Path(name)
    return context.run.round(0).judge / "answers" if context.round.number else None
