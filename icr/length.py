"""The length penalty α (Eq. 15), exactly.

Under a penalty α a response of reward r and length l counts r − α·l: a line in α whose slope is −l. Per prompt the
upper envelope of these lines is the chosen response and the lower envelope the rejected one, so the gap

    g(α) = mean over prompts of length(chosen) − length(rejected)

changes only where an envelope passes from one line to the next, and there it falls: a larger α can only shorten the
chosen response and lengthen the rejected one. All those breakpoints, sorted, with a running sum of the falls, *are* the
function g, and the α with the gap nearest to zero is read off. The paper searches a grid instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CURVE_POINTS = 101
LARGEST = 1e150
"""Beyond this, a difference or product of two inputs may overflow; no log-probability comes near."""
ROUNDING = 4 * np.finfo(np.float64).eps
"""Bounds the relative errors in two values of r − α·l and in the α of their crossing, taken together (2.5 eps)."""


@dataclass(frozen=True)
class LengthPenalty:
    """α of one language, and what it does to the lengths. Lengths are in the caller's unit."""

    alpha: float
    """Reward units per length unit; negative when the best responses are shorter than the worst without a penalty."""
    gap: float
    """Mean length of chosen − rejected over prompts at `alpha`, signed: what a pair builder gets in float64."""
    gap_without_penalty: float
    """The same at α = 0."""
    curve: tuple[tuple[float, float], ...]
    """101 points (α, gap), `alpha` in the middle; at a breakpoint the gap just right of it. For plotting."""


@dataclass(frozen=True)
class _Steps:
    """g(α): gaps[k] holds from ends[k−1] to starts[k], the outermost ones to ∓∞. Shapes [K], [K], [K + 1].

    Between starts[k] and ends[k] is a breakpoint, with all others that float64 cannot tell from it.
    """

    starts: Floats
    ends: Floats
    gaps: Floats


def fit_length_penalty(rewards: Sequence[Sequence[float]], lengths: Sequence[Sequence[float]]) -> LengthPenalty:
    """Eq. 15: the α that brings the mean length difference of chosen and rejected responses closest to 0.

    By hand, one prompt with (r, l) = (0, 1), (4, 3), (10, 7). The chosen response is the longest until α = 3/2, where
    10 − 7α = 4 − 3α, then the middle one until α = 2, then the shortest. The rejected one is the shortest until
    α = 5/3, where 0 − α = 10 − 7α, then the longest. So g = 6, 2, −4, −6 with steps at 3/2, 5/3, 2: the gap is 2,
    anywhere between 3/2 and 5/3, and α their middle, 19/12.

    The minimum is over every α that is not a breakpoint. At a breakpoint two responses tie, and the tie rule, not the
    rewards, makes the gap (of two responses that tie, one is both chosen and rejected: a gap of 0, and no pair).
    Within the best step α is 0 if the step holds 0 (no penalty is needed), else the step's middle, the α that is
    furthest from a tie; of two equally good steps, the one of smaller |α|. Steps so narrow that r − α·l in float64
    may round into a tie are skipped: the reported gap is the one that pairs really get. Where the only breakpoint
    is 0, every other α leaves the same |gap|, and α is 0, ties and all.

    Args:
        rewards: per prompt, the rewards of its responses without penalty: beta·(policy_logp − reference_logp).
            Ragged; prompts with fewer than two responses are skipped. Of equal rewards after the penalty the first
            listed response is chosen, or rejected: list them by sample number.
        lengths: their lengths, in the same shape.

    Raises:
        ValueError: shapes differ; a value is not finite (or beyond 1e150); no prompt has two responses.
    """
    r, lens = _rectangle(rewards, lengths)
    steps = _gap_steps(r, lens)
    return _report(r, lens, steps, _best_alpha(r, lens, steps))


def length_penalty_at(
    rewards: Sequence[Sequence[float]], lengths: Sequence[Sequence[float]], alpha: float
) -> LengthPenalty:
    """The same report for an α that is given rather than fitted. Arguments and errors as in `fit_length_penalty`."""
    r, lens = _rectangle(rewards, lengths)
    return _report(r, lens, _gap_steps(r, lens), alpha)


def _mean_gap(r: Floats, lens: Floats, alpha: float) -> float:
    """g(α) as a pair builder finds it: highest and lowest r − α·l per prompt, of equals the first listed."""
    penalised = r - alpha * lens
    rows = np.arange(len(r))
    return float((lens[rows, penalised.argmax(1)] - lens[rows, penalised.argmin(1)]).sum() / len(r))


def _best_alpha(r: Floats, lens: Floats, steps: _Steps) -> float:
    low = np.concatenate([[-np.inf], steps.ends])
    high = np.concatenate([steps.starts, [np.inf]])
    holds_zero = (low < 0) & (high > 0)
    with np.errstate(invalid="ignore"):  # −∞ + ∞, when there is one step and it holds 0
        alphas = np.where(holds_zero, 0.0, low / 2 + high / 2)
    distances = np.abs(steps.gaps)
    best = alphas[np.where(distances == distances.min(), np.abs(alphas), np.inf).argmin()]
    return float(best) if np.isfinite(best) else 0.0  # ±∞: the only breakpoint is 0


def _gap_steps(r: Floats, lens: Floats) -> _Steps:
    # The lower envelope of r − α·l is the upper one of its negative, and there a fall of −l is a rise of l.
    alphas, falls, blurs = np.concatenate([_envelope_changes(r, lens), _envelope_changes(-r, -lens)], axis=1)
    order = np.argsort(alphas - blurs)
    alphas, falls, blurs = alphas[order], falls[order], blurs[order]

    # Breakpoints whose blurs overlap are one: `first` and `last` index the first and last of each such group.
    reach = np.maximum.accumulate(alphas + blurs)
    apart = (alphas - blurs)[1:] > reach[:-1]
    first = np.flatnonzero(np.append(True, apart)[: len(alphas)])
    last = np.flatnonzero(np.append(apart, True)[: len(alphas)])
    at_minus_infinity = lens.max(1).sum() - lens.min(1).sum()
    totals = at_minus_infinity + np.concatenate([[0.0], np.cumsum(falls)[last]])
    return _Steps(starts=(alphas - blurs)[first], ends=reach[last], gaps=totals / len(r))


def _envelope_changes(r: Floats, lens: Floats) -> Floats:
    """Where the upper envelopes of r − α·l change line, all prompts ([P, N]) together, as columns of three.

    α, the change of length (always < 0), and the blur: how far from α rounding may still swap the two lines.
    At α = −∞ the longest response is on top (of equally long ones, the best). From there the walk goes to the first
    crossing with a shorter one, over and over, in all prompts at once.
    """
    current = np.where(lens == lens.max(1, keepdims=True), r, -np.inf).argmax(1)
    found = [np.empty((3, 0))]
    while len(r):
        rows = np.arange(len(r))
        top_r, top_len = r[rows, current], lens[rows, current]
        with np.errstate(divide="ignore", invalid="ignore"):  # lines of equal slope never cross
            crossing = (top_r[:, None] - r) / (top_len[:, None] - lens)
        crossing = np.where(lens < top_len[:, None], crossing, np.inf)
        following = crossing.argmin(1)  # of several lines through one point any: the next turn goes on from there
        alpha = crossing[rows, following]
        on = np.isfinite(alpha)
        r, lens, following, alpha, top_r, top_len = r[on], lens[on], following[on], alpha[on], top_r[on], top_len[on]
        next_r, next_len = r[rows[: len(r)], following], lens[rows[: len(r)], following]
        change = next_len - top_len
        sizes = np.abs(top_r) + np.abs(next_r) + np.abs(alpha) * (np.abs(top_len) + np.abs(next_len))
        found.append(np.stack([alpha, change, ROUNDING * sizes / -change]))
        current = following
    return np.concatenate(found, axis=1)


def _report(r: Floats, lens: Floats, steps: _Steps, alpha: float) -> LengthPenalty:
    """Half of the breakpoints and α = 0 are on the curve."""
    width = 1.0
    if len(steps.starts):
        width = max(1.25 * abs(alpha), float(np.median(np.abs(steps.starts - alpha)))) or width
    points = alpha + width * np.linspace(-1, 1, CURVE_POINTS)
    gaps = steps.gaps[np.searchsorted(steps.starts, points, side="right")]
    return LengthPenalty(
        alpha=alpha,
        gap=_mean_gap(r, lens, alpha),
        gap_without_penalty=_mean_gap(r, lens, 0.0),
        curve=tuple(zip(points.tolist(), gaps.tolist(), strict=True)),
    )


def _rectangle(rewards: Sequence[Sequence[float]], lengths: Sequence[Sequence[float]]) -> tuple[Floats, Floats]:
    """Ragged lists as two [prompts, most responses] arrays.

    A short row repeats its first response, which changes neither an envelope nor which of equals comes first.
    """
    counts, length_counts = [len(row) for row in rewards], [len(row) for row in lengths]
    if counts != length_counts:
        if len(counts) != len(length_counts):
            raise ValueError(f"rewards of {len(counts)} prompts, but lengths of {len(length_counts)}")
        at = next(i for i, (a, b) in enumerate(zip(counts, length_counts, strict=True)) if a != b)
        raise ValueError(f"prompt at index {at} has {counts[at]} rewards, but {length_counts[at]} lengths")
    size = np.array(counts, dtype=np.int64)
    if not (size >= 2).any():
        raise ValueError(f"none of {len(counts)} prompts has two responses to compare")

    column = np.arange(size.max())
    index = (np.cumsum(size) - size)[:, None] + np.where(column < size[:, None], column, 0)
    index = index[size >= 2]
    flat_r, flat_len = _flat(rewards, size, "reward"), _flat(lengths, size, "length")
    return flat_r[index], flat_len[index]


def _flat(values: Sequence[Sequence[float]], size: NDArray[np.int64], name: str) -> Floats:
    flat = np.fromiter(chain.from_iterable(values), dtype=np.float64, count=int(size.sum()))
    bad = np.flatnonzero(~(np.abs(flat) <= LARGEST))  # NaN compares false, so it is bad as well
    if len(bad):
        prompt = int(np.searchsorted(np.cumsum(size), bad[0], side="right"))
        raise ValueError(f"the {name} {flat[bad[0]]} of the prompt at index {prompt} is not a finite number")
    return flat
