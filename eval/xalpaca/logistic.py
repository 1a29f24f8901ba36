"""Fractional logistic regression, as win rates at equal length and at equal style need it."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog, minimize
from scipy.special import expit

from eval.xalpaca.judged_pairs import Floats

CERTAIN = 0.01  # a preference this near to 0 or 1 acts on the fit's existence as 0 or 1 does


def fit(x: Floats, y: Floats, weight: Floats) -> Floats:
    """Maximum of Σ weight·[y·log σ(xw) + (1 − y)·log(1 − σ(xw))], a concave function of w."""
    total = weight.sum()

    def loss(w: Floats) -> float:
        return float(weight @ (np.logaddexp(0, x @ w) - y * (x @ w)) / total)

    def gradient(w: Floats) -> Floats:
        return np.asarray(x.T @ (weight * (sigmoid(x @ w) - y)) / total, dtype=np.float64)

    def hessian(w: Floats) -> Floats:
        return np.asarray(information(x, weight, w) / total, dtype=np.float64)

    start = np.zeros(x.shape[1])
    found = minimize(loss, start, method="trust-exact", jac=gradient, hess=hessian, options={"gtol": 1e-10})
    return np.asarray(found.x, dtype=np.float64)


def sigmoid(x: Floats) -> Floats:
    return np.asarray(expit(x), dtype=np.float64)


def information(x: Floats, weight: Floats, w: Floats) -> Floats:
    """Σ weight·σ'(xw)·x xᵀ, the Fisher information."""
    p = sigmoid(x @ w)
    return (x * (weight * p * (1 - p))[:, None]).T @ x


def fit_firth(x: Floats, y: Floats, weight: Floats) -> Floats:
    """Maximum of the likelihood times |information|^½ (Firth 1993), finite for separable data too.

    The gradient is that of the likelihood with each row joined by half a win and half a loss of weight h, its leverage.
    """

    def loss(w: Floats) -> float:
        log_det = np.linalg.slogdet(information(x, weight, w)).logabsdet
        return float(weight @ (np.logaddexp(0, x @ w) - y * (x @ w)) - log_det / 2)

    def gradient(w: Floats) -> Floats:
        p = sigmoid(x @ w)
        # pinv, because a line search may probe where σ' underflows
        inverse = np.linalg.pinv(information(x, weight, w), hermitian=True)
        h = weight * p * (1 - p) * np.einsum("ij,jk,ik->i", x, inverse, x)
        return np.asarray(x.T @ (weight * (p - y) + h * (p - 0.5)), dtype=np.float64)

    return np.asarray(minimize(loss, np.zeros(x.shape[1]), method="BFGS", jac=gradient).x, dtype=np.float64)


def is_separable(x: Floats, y: Floats) -> bool:
    """Whether some direction of w raises no row's loss and lowers one's, so that the likelihood has no maximum.

    A linear programme: with s = +1 for a certain win, −1 for a certain loss, 0 for a verdict between, it seeks w in
    [−1, 1] with s·xw ≥ 0 in certain rows, xw = 0 in the others, and the largest Σ s·xw. Such a w grows to the border
    of its box; where there is none, w = 0 is the only solution.
    """
    s = np.select([y >= 1 - CERTAIN, y <= CERTAIN], [1.0, -1.0])
    gain, between = x[s != 0] * s[s != 0, None], x[s == 0]
    if not len(gain):
        return False
    found = linprog(-gain.sum(axis=0), -gain, np.zeros(len(gain)), between, np.zeros(len(between)), bounds=(-1, 1))
    return found.x is not None and bool(np.abs(found.x).max() > 0.5)


def leverage(x: Floats, weight: Floats, at: Floats) -> float:
    """z·(Σ weight·x xᵀ)⁻¹·z for a row z = `at`, such as the pairs' mean row with the lengths made equal.

    A pair's own leverage is at most 1. Above it, all pairs together say less about z than one verdict there would: a
    model that is always 500 ± 50 characters longer, say. The fit would answer 0 or 100 %, by chance.
    """
    values, vectors = np.linalg.eigh((x * weight[:, None]).T @ x)
    return float(np.sum((at @ vectors) ** 2 / np.maximum(values, 1e-12)))
