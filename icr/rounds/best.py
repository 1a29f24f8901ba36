"""Which round's model to take: the last one that is better than the best before it, beyond chance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from eval.clusters import excludes
from eval.difference import compare
from eval.folders import read_summary
from eval.rates import LANGUAGE_FALL
from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.rundir import RoundDir, RunDir

Verdict = Literal["better", "worse", "no difference", "wrong language", "no interval"]


@dataclass(frozen=True)
class Change:
    """A judged round beside the best round before it."""

    number: int
    against: int
    difference: float
    """Points of win rate, averaged over languages."""
    low: float | None
    high: float | None
    right_language: float | None
    """Change of the share of answers in the right language, averaged over languages."""
    verdict: Verdict
    why: str | None = None
    """Why there is no interval."""

    def explain(self) -> str:
        size = f"{self.difference:+.1f} points of win rate"
        if self.low is not None and self.high is not None:
            size += f" [{self.low:+.1f}, {self.high:+.1f}]"
        reason = {
            "better": "better",
            "worse": "worse",
            "no difference": "the interval includes 0",
            "no interval": f"no interval: {self.why}",
            "wrong language": f"{100 * (self.right_language or 0):+.0f} points of answers in the right language",
        }[self.verdict]
        return f"round {self.number} against round {self.against}: {size}: {reason}"


@dataclass(frozen=True)
class Best:
    number: int
    model: str
    """π_θ⁰ by its name in the config, or the folder of a round's model."""
    steps: list[Change]


def find_best(run: RunDir) -> Best:
    """The best judged round, and why.

    Rounds are compared in order, on the same prompts (`eval.difference`). A round replaces the best one before it if
    the 95 % interval of its difference in win rate, averaged over languages, is above 0, and if its answers are not in
    the wrong language more often (`LANGUAGE_FALL`).

    Raises:
        UserError: fewer than two judged rounds, rounds that were judged differently, or the best one's model is gone.
    """
    judged = [at for at in run.rounds() if at.summary.is_file()]
    if len(judged) < 2:
        raise UserError(
            f"a comparison needs two judged rounds, and this run has {len(judged)}",
            where=str(run.path),
            do=f"finish another round (icr iterate --run {run.path}); its config has to name a judge, in judge.kind",
        )
    best, steps = judged[0], list[Change]()
    for at in judged[1:]:
        steps.append(_compare(best, at))
        if steps[-1].verdict == "better":
            best = at
    return Best(best.number, _name(run, best), steps)


def is_worse(run: RunDir, number: int) -> Change | None:
    """The change to round `number` if that round is worse than the judged round before it, beyond chance."""
    judged = [at for at in run.rounds() if at.summary.is_file() and at.number <= number]
    if len(judged) < 2 or judged[-1].number != number:
        return None
    step = _compare(judged[-2], judged[-1])
    return step if step.verdict in ("worse", "wrong language") else None


def _compare(before: RoundDir, after: RoundDir) -> Change:
    average = compare(before.judge, after.judge, "xalpaca")["average"]
    low, high = average["low"], average["high"]
    change = _right_language(read_summary(before.summary), read_summary(after.summary))
    verdict: Verdict = "no difference"
    if low is None or high is None:
        verdict = "no interval"
    elif change is not None and change < -LANGUAGE_FALL:
        verdict = "wrong language"
    elif excludes(0, low, high):
        verdict = "better" if average["difference"] > 0 else "worse"
    return Change(after.number, before.number, average["difference"], low, high, change, verdict, average.get("why"))


def _right_language(before: Fields, after: Fields) -> float | None:
    """The change of the share, averaged over the languages in which both know it."""
    first, second = dict(_shares(before)), dict(_shares(after))
    both = [lang for lang in first if lang in second]
    return float(np.mean([second[lang] - first[lang] for lang in both])) if both else None


def _shares(summary: Fields) -> Iterator[tuple[str, float]]:
    for lang, row in summary["languages"].items():
        if row.get("right_language") is not None:
            yield lang, row["right_language"]


def _name(run: RunDir, at: RoundDir) -> str:
    if at.is_given:
        return run.first_models()["policy"]
    if not at.model.is_dir():
        raise UserError(
            f"round {at.number} is the one to take, and its model is gone",
            where=str(at.model),
            do="restore this folder from a backup",
        )
    return str(at.model)
