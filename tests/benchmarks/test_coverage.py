"""Intervals of averages over translated prompts hold the true value as often as they say: a part of the benchmark."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.coverage import DIFFERENCE, SHARES, cell, sample, true_mean


@pytest.mark.parametrize("measure", [*SHARES, DIFFERENCE])
@pytest.mark.parametrize("prompts", [12, 60])
def test_95_percent_intervals_cover_95_percent_of_correlated_verdicts(measure: str, prompts: int) -> None:
    """Of 400 simulations, three standard errors are 3.3 points."""
    found = cell(measure, 0.5, prompts, 400)
    assert abs(found["covered"] - 0.95) < 0.033
    assert found["independent"] < 0.85, "what errors of independent languages covered"


def test_the_simulation_is_what_it_says() -> None:
    rng = np.random.default_rng(3)
    for measure in (*SHARES, DIFFERENCE):
        values = sample(rng, measure, 100_000, 0.36)
        assert values.mean() == pytest.approx(true_mean(measure), abs=0.5)
        assert np.corrcoef(values)[0, 1:] == pytest.approx(0.36, abs=0.02)
