"""The estimators of an audit, as equations.

Each gives a `Part`: the value, and by prompt id how far that prompt moves it. So `eval.clusters.estimate` makes all
intervals, of a language and averaged over languages, in which a prompt and its translations are one draw. Where a value
is not a mean, a prompt moves it by what leaving the prompt out changes (the jackknife over prompts; Tukey 1958):

    u_i = √((n − 1)/n) · (θ − θ₍₋ᵢ₎)            for a mean: (x_i − x̄)/√(n(n − 1)), as `Part.of`
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.clusters import Part

Floats = NDArray[np.float64]
LABELS = 3
"""Lost, drawn, won."""
ROUNDING = 1e-9
"""Points; less is an error of arithmetic, and not of the estimate."""
ALONE = "one prompt alone decides a coefficient"


def regress(x: Floats, y: Floats, ids: Sequence[str]) -> list[Part]:
    """The coefficients of a linear regression of verdicts, estimated together (a linear probability model):

        y = X b + ε            b = A Xᵀ y,  A = (XᵀX)⁻¹

    A prompt i has a row for each order. Leaving out its rows X_i, with residuals e_i, changes the coefficients by

        b − b₍₋ᵢ₎ = A X_iᵀ (I − X_i A X_iᵀ)⁻¹ e_i

    (Cameron and Miller 2015, "A practitioner's guide to cluster-robust inference", CR3).

    Args:
        x: shape (verdicts, coefficients), of full rank.
        y: shape (verdicts,).
        ids: of each verdict, its prompt.

    Returns:
        One part a coefficient, in the order of the columns.

    Raises:
        ValueError: a coefficient depends on one prompt alone.
    """
    a: Floats = np.asarray(np.linalg.inv(x.T @ x), dtype=np.float64)
    b: Floats = a @ x.T @ y
    residuals: Floats = y - x @ b
    residuals[np.abs(residuals) < ROUNDING] = 0.0
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for row, id in enumerate(ids):
        rows[id].append(row)
    moves = {id: _without(x[of], residuals[of], a) for id, of in rows.items()}
    scale = np.sqrt((len(rows) - 1) / len(rows))
    return [Part(float(b[k]), {id: float(scale * of[k]) for id, of in moves.items()}) for k in range(len(b))]


def _without(x: Floats, residuals: Floats, a: Floats) -> Floats:
    """What leaving out one prompt takes from the coefficients: b − b₍₋ᵢ₎, shape (coefficients,)."""
    rest = np.eye(len(x)) - x @ a @ x.T
    if np.linalg.det(rest) < 1e-9:
        raise ValueError(ALONE)
    taken: Floats = a @ x.T @ np.linalg.solve(rest, residuals)
    return taken


def agreement(pairs: Mapping[str, Sequence[tuple[int, int]]]) -> Part:
    """The share of equal labels, a mean over prompts in percent.

    Args:
        pairs: prompt id → the labels that two gave to the same thing, each in 0 … LABELS − 1; at least one pair.
    """
    return Part.of({id: 100 * sum(one == two for one, two in of) / len(of) for id, of in pairs.items()})


def kappa(pairs: Mapping[str, Sequence[tuple[int, int]]]) -> Part | None:
    """Cohen's κ (1960): agreement beyond what two who give labels at random, each as often as they do, would have.

        κ = (p_o − p_e)/(1 − p_e)        p_o = Σ_k p_kk        p_e = Σ_k p_k· p_·k

    Its jackknife leaves out a prompt at a time. None where it is undefined: both give one label alone, or do so
    without some prompt.

    Args:
        pairs: as `agreement` takes them.
    """
    counts = np.zeros((len(pairs), LABELS, LABELS))
    for row, of in enumerate(pairs.values()):
        for one, two in of:
            counts[row, one, two] += 1
    whole = counts.sum(axis=0)
    value, without = _kappa(whole), _kappa(whole - counts)
    if not np.all(np.isfinite(without)) or len(pairs) < 2:
        return None
    moves = np.sqrt((len(pairs) - 1) / len(pairs)) * (value - without)
    return Part(float(value), dict(zip(pairs, moves.tolist(), strict=True)))


def _kappa(counts: Floats) -> Floats:
    """κ of tables of counts, shape (…, labels, labels) → (…); NaN where it is undefined."""
    n = counts.sum(axis=(-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = np.trace(counts, axis1=-2, axis2=-1) / n
        expected = np.sum(counts.sum(axis=-1) * counts.sum(axis=-2), axis=-1) / n**2
        value: Floats = np.where(expected < 1, (observed - expected) / (1 - expected), np.nan)
    return value


@dataclass(frozen=True)
class Corrected:
    """A mean over all prompts by a judge that is corrected by people's labels of some."""

    part: Part
    power: float
    """λ: how much the judge counts, from 0: not at all, the labels alone."""
    correlation: float
    """Of the judge's and people's values on the labelled prompts."""
    elsewhere: float = 0.0
    """λ of what the judge says of the same prompts in other languages."""


def correct(
    people: Mapping[str, float], judge: Mapping[str, float], others: Mapping[str, float] | None = None
) -> Corrected:
    """Prediction-powered inference of a mean (Angelopoulos et al. 2023, Science 382; power-tuned as in PPI++,
    Angelopoulos, Duchi and Zrnic 2023, arXiv 2311.01453, example 6.1). With people's labels Y of n prompts, the judge's
    values f of these, and f̃ of the N others:

        θ = λ·mean(f̃) + mean(Y − λ·f)
        λ = cov(Y, f) / ((1 + n/N)·var(f over all)), and 0 where that is negative
        se² = λ²·var(f̃)/N + var(Y − λ·f)/n

    λ minimises the error; it is over 1 for a judge that says what people say with less contrast, as the probabilities
    of labels often do. With ρ the correlation of Y and f, the interval is √(1 − ρ²·N/(n + N)) times as wide as that of
    the labels alone. The labelled prompts have to be drawn at random from all.

    A prompt that is hard in one language is hard in others, so what the judge says of its translations tells something,
    too. With g, the mean over the other languages, it is a second variable, and λ a vector:

        λ = Σ⁻¹ (cov(Y, f), cov(Y, g)) / (1 + n/N)        Σ: the covariances of f and g over all prompts

    Any fixed λ is right on average; one estimated from n labels is right up to the order of 1/n. ρ² is then the share
    of people's variance that f and g explain together.

    Args:
        people: prompt id → people's value, of at least two prompts that the judge has a value of.
        judge: prompt id → the judge's value.
        others: prompt id → the mean of its values in other languages, of all prompts in `judge`; None: not used.
    """
    y = np.array(list(people.values()))
    f = np.array([judge[id] for id in people])
    rest = [id for id in judge if id not in people]
    power, correlation = _power(y, f, np.array([judge[id] for id in rest]))
    elsewhere = 0.0
    if others is not None and power and rest:
        power, elsewhere = _powers(y, *(np.array([of[id] for id in (*people, *rest)]) for of in (judge, others)))
    told = {id: power * value + (elsewhere * others[id] if others else 0.0) for id, value in judge.items()}
    labelled = Part.of({id: value - told[id] for id, value in people.items()})
    if not rest:
        return Corrected(labelled, power, correlation)
    unlabelled = Part.of({id: told[id] for id in rest})
    part = Part(unlabelled.value + labelled.value, {**unlabelled.moves, **labelled.moves})
    return Corrected(part, power, correlation, elsewhere)


def _powers(y: Floats, f: Floats, g: Floats) -> tuple[float, float]:
    """λ of two variables, shape (prompts,) each with the n labelled prompts first; of f alone where g adds nothing.

    A negative one is 0: the judge is not used against what it says.
    """
    n, rest = len(y), len(f) - len(y)
    shrink = 1 + n / rest
    alone = float(np.cov(y, f[:n])[0, 1]) / (shrink * float(f.var(ddof=1)))
    spread = np.cov(f, g)
    if np.linalg.det(spread) <= ROUNDING * spread[0, 0] ** 2:
        return alone, 0.0
    with_people = np.array([np.cov(y, of[:n])[0, 1] for of in (f, g)])
    power, elsewhere = (float(value) for value in np.linalg.solve(spread, with_people) / shrink)
    return (power, elsewhere) if power >= 0 and elsewhere >= 0 else (alone, 0.0)


def _power(y: Floats, f: Floats, rest: Floats) -> tuple[float, float]:
    """λ, and the correlation of y and f; both 0 where the judge or people say one value alone, or no prompt is left."""
    if np.ptp(f) == 0 or np.ptp(y) == 0:
        return 0.0, 0.0
    correlation = float(np.corrcoef(y, f)[0, 1])
    if not len(rest):
        return 0.0, correlation
    covariance = float(np.cov(y, f)[0, 1])
    power = covariance / ((1 + len(y) / len(rest)) * float(np.concatenate([f, rest]).var(ddof=1)))
    return max(0.0, power), correlation
