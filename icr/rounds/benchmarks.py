"""`judge.benchmarks` may change at any time: what was judged stays, and an added benchmark runs alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from icr.base.rundir import StageRecord
from icr.config.schema import Config
from icr.work.steps import Step, stamp

SETTING = "judge.benchmarks"

Earlier = Callable[[Config], Step]
"""The same judge step under another config."""


def follow_benchmarks(config: Config, step: Step, record: StageRecord, earlier: Earlier) -> StageRecord:
    """The record of a judge step under the config's benchmarks.

    Where the step differs from its record by `judge.benchmarks` alone, the record gets the step's key. It is done when
    each of the benchmarks is; what else was measured stays in `parts`. Any other record is returned as it is.

    Args:
        record: with its key, see `icr.work.steps.adopt`.
    """
    named = record.settings.get(SETTING)
    if record.key == step.key or not isinstance(named, list):
        return record
    if not any(earlier(before).key == record.key for before in _configs(config, named)):
        return record
    parts = dict(record.parts)
    if record.state == "done" and not parts:  # of a version that judged them as one
        parts = {name: {} for name in named} | {named[0]: record.counts}
    done = all(name in parts for name in config.judge.benchmarks)
    state = "done" if done else "running" if record.state == "done" else record.state
    return stamp(step, record.model_copy(update={"state": state, "parts": parts}))


def with_benchmarks(config: Config, benchmarks: Sequence[str], **changes: object) -> Config:
    """The config with these `judge.benchmarks`, and other changes of its judge."""
    judge = config.judge.model_copy(update={"benchmarks": list(benchmarks), **changes})
    return config.model_copy(update={"judge": judge})


def _configs(config: Config, benchmarks: Sequence[str]) -> Iterator[Config]:
    """The config with these benchmarks. NLP tasks alone may have run without a judge."""
    yield with_benchmarks(config, benchmarks)
    if list(benchmarks) == ["nlp"]:
        yield with_benchmarks(config, benchmarks, kind="none")
