"""Writes what a run's finished stages took, so that the next plan need not assume it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from eval.folders import summary_path
from icr.base.fields import Fields
from icr.base.files import read_object
from icr.base.rundir import RunDir, Stage, StageRecord
from icr.planning.lengths import guess_lengths, read_answers, read_lengths
from icr.planning.plan import Known, make_setup, precision_of, rate_key
from icr.planning.questions import Asked, plan_questions
from icr.planning.rates import Observation, read_rates, write_rates
from icr.planning.setup import Setup
from icr.planning.work import count_responses, list_jobs

IN_ONE_GO = 1.0
"""Seconds by which a stage's working time may be below the time from its start to its end."""


class Recorder:
    """Adds the stages that a command finishes to rates.json; used for one run."""

    def __init__(self, run: RunDir, known: Known, *, fresh: bool = False) -> None:
        """
        Args:
            fresh: whether all that is finished is this command's, too.
        """
        self._run, self._known, self._setup = run, known, make_setup(known)
        self._done = [] if fresh else self._finished()
        self._alone = not self._done
        """Whether the run's first stage was this command's: then its start-ups are those of the plan."""

    def update(self) -> None:
        """Record the stages that have been finished since the last call."""
        finished = self._finished()
        new = [name for name in finished if name not in self._done]
        self._done = finished
        made = [found for number, stage in new if (found := self.observe(number, stage))]
        if made:
            rates = read_rates()  # another run may have written meanwhile
            rates.keep(self._known.device)
            for observation in made:
                rates.add(self._known.device.name, observation)
            write_rates(rates)

    def _finished(self) -> list[tuple[int, Stage]]:
        return [(number, stage) for number, stage in self._setup.stages if self._run.round(number).done(stage)]

    def observe(self, number: int, stage: Stage) -> Observation | None:
        """What a finished stage took and what the plan assumes for as much work; None where the two are not of the
        same work: it was interrupted, or began in a command that resumed the run."""
        record = self._run.round(number).record.stages[stage]
        if not self._alone or not is_whole(record):
            return None
        setup, cap = self._setup, self._known.config.sampling.max_tokens
        lengths = read_lengths(self._run, cap, number) or read_lengths(self._run, cap) or guess_lengths(setup.texts)
        if stage == "judge":
            lengths = replace(lengths, answered=read_answers(self._run.round(number).judge / "answers") or None)
        asked = plan_questions(setup.config, setup.inputs, setup.texts, lengths) if stage == "judge" else Asked()
        jobs = list_jobs(setup, lengths, asked, number, stage)
        if any(job.unknown for job in jobs):
            return None
        return Observation(
            stage=rate_key(stage),
            parameters=setup.policy.parameters,
            precision=precision_of(setup, stage),
            devices=setup.devices,
            start=sum(job.start for job in jobs),
            work=sum(job.work for job in jobs),
            tokens=_counted(record, stage) or sum(job.tokens for job in jobs),
            seconds=record.seconds,
            answers=count_responses(setup) if stage == "sample" else 0,
            limit=cap if stage == "sample" else 0,
            **_paid(self._run, number, asked, setup) if stage == "judge" else {},
        )


def is_whole(record: StageRecord) -> bool:
    """Whether the stage was done in one go."""
    if record.state != "done" or record.finished is None:
        return False
    return abs(record.finished - record.started - record.seconds) < IN_ONE_GO


def _counted(record: StageRecord, stage: Stage) -> int:
    return int(record.counts.get("tokens", 0)) if stage == "sample" else 0


def _paid(run: RunDir, number: int, asked: Asked, setup: Setup) -> Fields:
    """What an endpoint has counted in a round, of the benchmark with most calls."""
    judge = setup.config.judge
    found = asked.in_round(judge, number)
    if judge.kind != "openai" or not found:
        return {}
    name = max(found, key=lambda of: found[of].calls)
    cost = _read_cost(summary_path(run.round(number).judge, name))
    if not cost.get("calls"):
        return {}
    scale = cost["calls"] / max(1, found[name].calls)  # identical answers are not asked about
    return {
        "benchmark": name,
        "calls": cost["calls"],
        "guessed": round(scale * found[name].guessed),
        "prompt_tokens": cost["prompt_tokens"],
        "completion_tokens": cost["completion_tokens"],
    }


def _read_cost(path: Path) -> Fields:
    try:
        found: Fields = read_object(path).get("cost") or {}
    except (OSError, ValueError):
        return {}
    return found
