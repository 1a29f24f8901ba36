"""The figures: that a drawing shows the numbers it was given."""

from __future__ import annotations

import re

import numpy as np
import pytest

from icr.report import plots


def test_sweep_marks_the_chosen_alpha() -> None:
    """The marker lies where the axes' ticks say: a drawing whose α is the curve's middle has it in the middle."""
    curve = [[a / 100, 50.0 - a] for a in range(101)]
    drawing = plots.sweep([(0, curve, 0.5, 0.0)], "characters", "sweep")
    marks = re.findall(r'<use xlink:href="#\w+" x="([\d.]+)" y="([\d.]+)" style="fill: var\(--s0\)', drawing)
    line = next(d for d, s in re.findall(r'<path d="([^"]*)"[^>]*style="([^"]*)"', drawing) if "var(--s0)" in s)
    points = np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", line), dtype=float)
    assert len(marks) == 1
    assert np.array(marks[0], dtype=float) == pytest.approx(points[[0, -1]].mean(axis=0), abs=0.2)


def test_binning_keeps_the_mean_and_drops_what_is_not_finite() -> None:
    positions, means = plots.binned([1.0, 3.0, float("nan"), 5.0, 7.0, float("inf")], most=2)
    assert (positions, means) == ([0.5, 3.5], [2.0, 6.0])
    assert plots.thinned(1000, 3) == [0, 500, 999]
