"""Stage "judge": every benchmark of the config on the round's policy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from eval.benchmarks import ANSWERS, BENCHMARKS, Evaluation
from icr.rounds.context import Context
from icr.work.runner import Counts


def judge(context: Context, *, answered: bool = False) -> Counts:
    """Every benchmark of the config on the round's policy; those that are done already are not done again.

    Args:
        answered: whether `answer` has done its part.
    """
    evaluation = _describe(context)
    if answered:
        evaluation = replace(evaluation, model="")
    counts: Counts = {}
    for benchmark in context.config.judge.benchmarks:
        if benchmark not in context.parts:
            context.parts[benchmark] = BENCHMARKS[benchmark](evaluation)
            context.save()
        counts |= context.parts[benchmark]
    return counts


def answer(context: Context) -> None:
    """What of `judge` comes before a judge is asked, and kept: the policy's answers, and lm-eval's tasks."""
    evaluation = _describe(context)
    for benchmark in context.config.judge.benchmarks:
        if benchmark in context.parts:
            continue
        if benchmark in ANSWERS:
            ANSWERS[benchmark](evaluation)
        elif benchmark == "nlp":
            context.parts[benchmark] = BENCHMARKS[benchmark](evaluation)
            context.save()


def _describe(context: Context) -> Evaluation:
    config, round_ = context.config, context.round
    return Evaluation(
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


def _find_baseline(context: Context) -> Path | None:
    """The folder of answers that the round's are compared with; None for round 0 where it is the baseline."""
    name = context.config.judge.baseline
    if name != "round-0":
        return Path(name)
    return context.run.round(0).judge / "answers" if context.round.number else None
