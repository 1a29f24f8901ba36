"""Krippendorff's α against hand calculations and the published example."""

from __future__ import annotations

import pytest

from eval.krippendorff import nominal_alpha

PUBLISHED = (
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
)
"""Four observers, twelve units, of Krippendorff (2011), where α is 0.743."""


def test_the_published_example() -> None:
    observers = [[None if value == "." else value for value in row.split()] for row in PUBLISHED]
    assert nominal_alpha(zip(*observers, strict=True)) == pytest.approx(0.743, abs=5e-4)


def test_by_hand() -> None:
    """aa, ab, bb: n = 6, three of each value; two ordered pairs differ of each 1/(2 − 1): o = 2.

    D_o = 2/6, D_e = 2·3·3/(6·5) = 18/30, α = 1 − (1/3)/(3/5) = 4/9.
    """
    assert nominal_alpha([("a", "a"), ("a", "b"), ("b", "b")]) == pytest.approx(4 / 9)
    assert nominal_alpha([("a", "a"), ("b", "b")]) == 1.0
    assert nominal_alpha([("a", "b"), ("b", "a")]) == pytest.approx(1 - 3 * 4 / 8)


@pytest.mark.parametrize("units", [[], [("a", None)], [("a", "a"), ("a", "a", "a")], [(None, None)]])
def test_where_it_is_not_defined(units: list[tuple[str | None, ...]]) -> None:
    assert nominal_alpha(units) is None


def test_one_verdict_alone_says_nothing_of_agreement() -> None:
    units: list[tuple[str | None, ...]] = [("a", "a"), ("a", "b"), ("b", "b")]
    assert nominal_alpha([*units, ("b", None), (None, None)]) == nominal_alpha(units)
