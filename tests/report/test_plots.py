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


def test_a_figure_is_drawn_once_for_the_same_data(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    draw = plots._draw
    monkeypatch.setattr(plots, "_draw", lambda paint, alt: (drawn.append(alt), draw(paint, alt))[1])
    first, longer = plots.Series(0, [0, 1], [50, 60], [45, 55], [55, 65]), [float(i) for i in range(5000)]
    one = plots.by_round([first], "rate", "drawn once")
    assert plots.by_round([first], "rate", "drawn once") == one
    assert drawn == ["drawn once"]
    other = plots.Series(0, [0, 1], [50, 60.1], [45, 55], [55, 65])
    assert plots.by_round([other], "rate", "drawn once") != one

    monkeypatch.setattr(plots, "_draw", lambda paint, alt, **size: (drawn.append(alt), draw(paint, alt, **size))[1])
    plots.training(longer, [("loss", longer)], "loss", "long")
    plots.training(longer, [("loss", [*longer[:2500], 7.0, *longer[2501:]])], "loss", "long")
    assert drawn.count("long") == 2, "a value in the middle of a long list counts"
