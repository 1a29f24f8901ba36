"""Style control: what is counted, and the rate at equal style by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize

from eval.clusters import estimate
from eval.xalpaca.style import FEATURES, Controlled, Style, contrast, control_style, count_style

TEXT = """# Title
Some **bold** words and __more__, but 2 ** 3 ** 4.

## Part
- one
* two **bold
 1. three
12) four
-no item

```
# no header
- no item
```
"""


def test_what_is_counted() -> None:
    assert count_style(TEXT) == Style(len(TEXT), headers=2, lists=4, bold=2)
    assert count_style("") == Style(0, 0, 0, 0)


def test_contrasts_by_hand() -> None:
    ours, theirs = Style(300, 3, 0, 1), Style(100, 1, 0, 2)
    assert contrast(ours, theirs) == pytest.approx([0.5, 2 / 6, 0.0, -1 / 5])
    assert contrast(theirs, ours) == pytest.approx([-0.5, -2 / 6, 0.0, 1 / 5])
    assert contrast(Style(0, 0, 0, 0), Style(0, 0, 0, 0)) == [0.0] * 4


def test_the_rate_at_equal_style_by_hand() -> None:
    """Half of the prompts have the same style, and the model wins 12 of 20; of the others, which are longer, 18 of 20.
    With one feature of two values the fit is exact: σ(β_0) = .6, with the error of these 20 prompts alone."""
    preferences = {f"same {n}": float(n < 12) for n in range(20)} | {f"long {n}": float(n < 18) for n in range(20)}
    contrasts = {id: [0.5 if id.startswith("long") else 0.0, 0.0, 0.0, 0.0] for id in preferences}
    found = control_style(preferences, contrasts)
    assert isinstance(found, Controlled)
    assert found.part.value == pytest.approx(60.0, abs=1e-4)
    logit = math.log(0.9 / 0.1) - math.log(0.6 / 0.4)
    assert found.weights == {"length": pytest.approx(logit / 0.5, abs=1e-4)}
    assert estimate([found.part]).se == pytest.approx(100 * math.sqrt(0.6 * 0.4 / 20) * math.sqrt(40 / 38), rel=1e-4)
    moved = {id for id, move in found.part.moves.items() if abs(move) > 1e-6}
    assert moved == {f"same {n}" for n in range(20)}


def test_planted_weights_are_found_as_by_another_maximiser() -> None:
    rng = np.random.default_rng(4)
    planted, n = np.array([0.3, 1.5, -1.0, 0.8, 0.0]), 3000
    z = rng.uniform(-0.8, 0.8, size=(n, 4))
    x = np.column_stack([np.ones(n), z])
    y = (rng.random(n) < 1 / (1 + np.exp(-x @ planted))).astype(float)
    ids = [str(i) for i in range(n)]
    found = control_style(dict(zip(ids, y.tolist(), strict=True)), dict(zip(ids, z.tolist(), strict=True)))
    assert isinstance(found, Controlled)
    other = minimize(lambda w: np.sum(np.log1p(np.exp(-(2 * y - 1) * (x @ w)))), np.zeros(5), method="Nelder-Mead",
                     options={"maxiter": 4000, "xatol": 1e-7, "fatol": 1e-9}).x  # fmt: skip
    assert list(found.weights.values()) == pytest.approx(other[1:], abs=1e-3)
    assert found.part.value == pytest.approx(100 / (1 + math.exp(-other[0])), abs=0.02)
    assert list(found.weights) == list(FEATURES)


def test_95_percent_intervals_hold_the_rate_at_equal_style() -> None:
    """Of 200 simulations of 300 prompts; three standard errors are 4.6 points."""
    rng = np.random.default_rng(5)
    truth, covered = 100 / (1 + math.exp(-0.3)), 0
    for _ in range(200):
        z = rng.uniform(-0.5, 0.9, size=(300, 4))
        y = rng.random(300) < 1 / (1 + np.exp(-(0.3 + z @ [1.5, -1.0, 0.8, 0.0])))
        preferences = {str(n): float(won) for n, won in enumerate(y)}
        found = control_style(preferences, {str(n): row for n, row in enumerate(z.tolist())})
        assert isinstance(found, Controlled)
        result = estimate([found.part])
        assert result.low is not None and result.high is not None
        covered += result.low <= truth <= result.high
    assert abs(covered / 200 - 0.95) < 0.046


def test_why_there_is_no_rate_at_equal_style() -> None:
    few = {str(n): float(n % 2) for n in range(9)}
    assert "9 prompts are too few for the 2 parameters" in str(
        control_style(few, {id: [0.1 * int(id), 0, 0, 0] for id in few})
    )
    many = {str(n): float(n % 3 > 0) for n in range(60)}
    longer = {id: [0.9 + 0.001 * (int(id) % 7), 0.0, 0.0, 0.0] for id in many}
    assert "differ too much" in str(control_style(many, longer))
    twins = {id: [0.1 * (int(id) % 7 - 3), 0.1 * (int(id) % 7 - 3), 0.0, 0.0] for id in many}
    assert "cannot be told apart" in str(control_style(many, twins))
    same = control_style(many, {id: [0.0] * 4 for id in many})  # no feature: the raw rate
    assert isinstance(same, Controlled) and same.part.value == pytest.approx(100 * 2 / 3, abs=1e-3) and not same.weights
