"""How often the 95 % intervals hold the true value, on simulated verdicts of translated prompts.

    python -m benchmarks.coverage [--simulations 400] [--json]

A value is 0, 0.5 or 1: lost, drawn or won. With probability √ρ a language's value of a prompt is the one that the
prompt has in common, else its own; so any two languages correlate by exactly ρ, and the true mean is known. Every tenth
verdict is missing. Beside each interval is the one whose error takes the languages as independent, from the same data.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from eval.clusters import CONFIDENCE, PERCENT, Estimate, Part, estimate

Floats = NDArray[np.float64]
LANGUAGES = 5
MISSING = 0.1
CORRELATIONS = (0.0, 0.2, 0.4, 0.6)
PROMPTS = (12, 25, 50, 100, 200, 805)
VALUES = np.array([0.0, 50.0, 100.0])
SHARES = {"win rate": (0.35, 0.2, 0.45), "high win rate": (0.15, 0.1, 0.75)}
"""Of lost, drawn and won, by what is measured."""
DIFFERENCE = "difference"
"""Of the two, on the same prompts."""


class Cell(TypedDict):
    """What the intervals of one setting did."""

    measure: str
    correlation: float
    prompts: int
    covered: float
    """Share of simulations whose interval holds the true value; one without an interval does not count."""
    without: int
    """Simulations that gave no interval."""
    width: float
    """Mean width, in points."""
    independent: float
    """Share for the errors of independent languages."""


def draw(rng: np.random.Generator, prompts: int, correlation: float, shares: tuple[float, ...]) -> Floats:
    """Values in percent of a language's prompts, shape (languages, prompts); correlated between languages."""
    common = rng.choice(VALUES, size=(1, prompts), p=shares)
    own = rng.choice(VALUES, size=(LANGUAGES, prompts), p=shares)
    return np.where(rng.random((LANGUAGES, prompts)) < math.sqrt(correlation), common, own)


def sample(rng: np.random.Generator, measure: str, prompts: int, correlation: float) -> Floats:
    """One simulated evaluation, or the differences of two."""
    if measure != DIFFERENCE:
        return draw(rng, prompts, correlation, SHARES[measure])
    before, after = (draw(rng, prompts, correlation, shares) for shares in SHARES.values())
    return after - before


def true_mean(measure: str) -> float:
    """The mean that `sample` is drawn with."""
    means = {name: float(VALUES @ np.array(shares)) for name, shares in SHARES.items()}
    before, after = means.values()
    return after - before if measure == DIFFERENCE else means[measure]


def intervals(rng: np.random.Generator, measure: str, values: Floats) -> tuple[Estimate, float]:
    """The interval of simulated values, and half the width of one for independent languages."""
    there = rng.random(values.shape) >= MISSING
    parts = [
        Part.of({str(i): float(row[i]) for i in np.flatnonzero(of)}) for row, of in zip(values, there, strict=True)
    ]
    errors = [estimate([part]).se or 0.0 for part in parts]
    reach = float(norm.ppf((1 + CONFIDENCE) / 2)) * math.hypot(*errors) / len(parts)
    return estimate(parts, None if measure == DIFFERENCE else PERCENT), reach


def cell(measure: str, correlation: float, prompts: int, simulations: int, seed: int = 0) -> Cell:
    rng = np.random.default_rng([seed, prompts, round(1000 * correlation), len(measure)])
    truth, covered, independent, widths = true_mean(measure), 0, 0, []
    for _ in range(simulations):
        found, reach = intervals(rng, measure, sample(rng, measure, prompts, correlation))
        independent += abs(found.value - truth) <= reach
        if found.low is not None and found.high is not None:
            covered += found.low <= truth <= found.high
            widths.append(found.high - found.low)
    return {
        "measure": measure,
        "correlation": correlation,
        "prompts": prompts,
        "covered": covered / max(1, len(widths)),
        "without": simulations - len(widths),
        "width": float(np.mean(widths)) if widths else math.nan,
        "independent": independent / simulations,
    }


def cells(simulations: int) -> Iterator[Cell]:
    for measure in (*SHARES, DIFFERENCE):
        for correlation in CORRELATIONS:
            for prompts in PROMPTS:
                yield cell(measure, correlation, prompts, simulations)


def main() -> None:
    parser = argparse.ArgumentParser(description="coverage of the 95 % intervals on simulated verdicts")
    parser.add_argument("--simulations", type=int, default=400, help="per cell (default: 400)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    arguments = parser.parse_args()
    found = list(cells(arguments.simulations))
    if arguments.json:
        print(json.dumps({"simulations": arguments.simulations, "cells": found}))
        return
    print(f"{LANGUAGES} languages, {arguments.simulations} simulations a cell, {MISSING:.0%} of the verdicts missing")
    print(f"{'measure':14}{'correlation':>12}{'prompts':>9}{'coverage':>10}{'width':>8}{'independent':>13}")
    for row in found:
        print(
            f"{row['measure']:14}{row['correlation']:12.1f}{row['prompts']:9}{100 * row['covered']:9.1f}%"
            f"{row['width']:8.1f}{100 * row['independent']:12.1f}%"
        )
    for measure in (*SHARES, DIFFERENCE):
        of = [row for row in found if row["measure"] == measure]
        ours, theirs = (100 * float(np.mean([row[key] for row in of])) for key in ("covered", "independent"))
        print(f"{measure}: {ours:.1f} % covered on average, {theirs:.1f} % by errors of independent languages")


if __name__ == "__main__":
    main()
