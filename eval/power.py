"""The smallest difference that a planned number of prompts can show, before anything is paid for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import nctdtrinc, stdtrit

from eval.clusters import CONFIDENCE, FEWEST
from icr.config.schema import Judge
from prompts.load import Prompt

POWER = 0.8
"""Chance that the interval of a true difference of this size excludes 0."""
CORRELATION = 0.4
"""Assumed between a prompt's values in two languages."""


@dataclass(frozen=True)
class Spread:
    """What is assumed of a benchmark's values."""

    deviation: float
    """Standard deviation of a prompt's value; also that of the difference of two models, whose values correlate by
    one half."""
    unit: str


SPREADS = {"xalpaca": Spread(45.0, "points of win rate"), "mtbench": Spread(2.0, "grade points")}
"""Win rates: of 35 % lost, 20 % drawn and 45 % won it is 44."""


TITLES = {"xalpaca": "X-AlpacaEval", "mtbench": "MT-Bench"}


def smallest_difference(n: int, deviation: float) -> float:
    """The true mean δ of n values whose t interval excludes 0 with chance POWER; in the unit of their deviation σ.

    P(T > t_{.975, n−1}) = POWER for T noncentral t with n − 1 degrees of freedom and noncentrality δ·√n / σ.
    """
    critical = stdtrit(n - 1, (1 + CONFIDENCE) / 2)
    return float(nctdtrinc(n - 1, 1 - POWER, critical)) * deviation / math.sqrt(n)


def average_deviation(deviation: float, languages: int, correlation: float = CORRELATION) -> float:
    """Standard deviation of a prompt's mean over L languages: σ·√((1 + (L − 1)·ρ) / L)."""
    return deviation * math.sqrt((1 + (languages - 1) * correlation) / languages)


def describe_power(benchmark: str, prompts: Mapping[str, int]) -> str:
    """What can be shown, in words.

    Args:
        benchmark: a key of SPREADS.
        prompts: planned number by language.
    """
    spread, fewest = SPREADS[benchmark], min(prompts.values())
    most = max(prompts.values())
    planned = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
    if fewest < FEWEST:
        planned = "1 prompt per language is" if most == 1 else f"{planned} prompts per language are"
        return f"{planned} too few; an interval needs {FEWEST}"
    digits = 1 if spread.deviation > 10 else 2
    alone = f"{smallest_difference(fewest, spread.deviation):.{digits}f} {spread.unit}"
    assumed = f"a standard deviation of {spread.deviation:g} between prompts"
    if len(prompts) == 1:
        return f"{planned} prompts can show differences from {alone} (80 % power, assuming {assumed})"
    together = smallest_difference(fewest, average_deviation(spread.deviation, len(prompts)))
    return (
        f"{planned} prompts per language can show differences from {alone} in one language, and from "
        f"{together:.{digits}f} on average over {len(prompts)} (80 % power, assuming {assumed} and a correlation of "
        f"{CORRELATION:g} between languages)"
    )


def describe_plans(judge: Judge, languages: Sequence[str], heldout: Sequence[Prompt]) -> list[str]:
    """What a run's judge can show of each round, a line a benchmark.

    Args:
        heldout: of all languages; none where X-AlpacaEval is not measured.
    """
    planned: dict[str, dict[str, int]] = {}
    if judge.kind != "none" and "xalpaca" in judge.benchmarks and heldout:
        planned["xalpaca"] = Counter(prompt.lang for prompt in heldout)
    if judge.kind != "none" and "mtbench" in judge.benchmarks and judge.mtbench:
        from eval.mtbench.questions import load_questions

        planned["mtbench"] = {lang: len(of) for lang, of in load_questions(judge.mtbench, list(languages)).items()}
    return [f"{TITLES[name]}: {describe_power(name, prompts)}" for name, prompts in planned.items()]
