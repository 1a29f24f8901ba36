"""The exact α fit (Eq. 15) against a 1,000-step grid, on the same rewards in the same process.

    python -m benchmarks.alpha [--json]

The baseline is written here, in the manner of the authors' search: α from 0 to 1 by 0.001, a loop over prompts inside a
loop over α. The rewards are synthetic and on the authors' scale (no β): lengths as of long answers, the log-ratio
growing with length by an amount that differs between prompts, and noise.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icr.length import fit_length_penalty

PROMPTS, RESPONSES = 3_000, 10
Rows = list[NDArray[np.float64]]


def synthetic(seed: int = 0) -> tuple[Rows, Rows]:
    """(rewards, lengths), each 3,000 arrays of 10: log-ratios in nats and lengths in characters."""
    rng = np.random.default_rng(seed)
    typical = rng.lognormal(np.log(1_500), 0.5, size=(PROMPTS, 1))
    lengths = np.maximum(1, np.round(typical * rng.lognormal(0, 0.35, size=(PROMPTS, RESPONSES))))
    per_character = rng.normal(0.01, 0.005, size=(PROMPTS, 1))
    rewards = per_character * lengths + rng.normal(0, 6, size=(PROMPTS, RESPONSES))
    return list(rewards), list(lengths)


def grid_search(rewards: Rows, lengths: Rows) -> tuple[float, float]:
    """(α, gap) of the smallest |gap| on the grid 0, 0.001, … 1."""
    best = (0.0, np.inf)
    for alpha in np.arange(0, 1.0005, 0.001):
        gap = 0.0
        for r, lens in zip(rewards, lengths, strict=True):
            penalised = r - alpha * lens
            gap += lens[penalised.argmax()] - lens[penalised.argmin()]
        gap /= len(rewards)
        if abs(gap) < abs(best[1]):
            best = (float(alpha), float(gap))
    return best


def measure() -> dict[str, Any]:
    rewards, lengths = synthetic()
    ragged_rewards, ragged_lengths = [r.tolist() for r in rewards], [lens.tolist() for lens in lengths]
    fit_length_penalty(ragged_rewards[:10], ragged_lengths[:10])  # so that neither side pays for first calls

    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        fit = fit_length_penalty(ragged_rewards, ragged_lengths)
        seconds.append(time.perf_counter() - started)
    started = time.perf_counter()
    grid_alpha, grid_gap = grid_search(rewards, lengths)
    grid_seconds = time.perf_counter() - started

    exact_seconds = float(np.median(seconds))
    return {
        "prompts": PROMPTS,
        "responses": RESPONSES,
        "gap_without_penalty": fit.gap_without_penalty,
        "grid": {"seconds": grid_seconds, "alpha": grid_alpha, "gap": grid_gap},
        "exact": {"seconds": exact_seconds, "alpha": fit.alpha, "gap": fit.gap},
        "ratio": grid_seconds / exact_seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="the exact α fit against a 1,000-step grid")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    as_json = parser.parse_args().json
    result = measure()
    if abs(result["exact"]["gap"]) > abs(result["grid"]["gap"]):
        raise SystemExit(f"the exact fit left a larger gap than the grid: {result}")
    if as_json:
        print(json.dumps(result))
        return
    without = result["gap_without_penalty"]
    print(f"{PROMPTS} prompts of {RESPONSES} responses, gap without penalty {without:.1f} characters")
    print(f"{'':6}{'seconds':>10}{'alpha':>12}{'gap':>14}")
    for name in ("grid", "exact"):
        row = result[name]
        print(f"{name:6}{row['seconds']:10.4f}{row['alpha']:12.6f}{row['gap']:14.4f}")
    print(f"the exact fit is {result['ratio']:.0f} times as fast")


if __name__ == "__main__":
    main()
