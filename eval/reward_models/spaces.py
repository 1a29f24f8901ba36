"""What a space of hidden states is like: how far it has collapsed and moved, and whether translations are neighbours.

H is the matrix of the states of n texts, one row a text, in one layer; H₀ that of the base model on the same texts; H_c
is H minus the mean of its rows. σ₁ ≥ σ₂ ≥ … are singular values.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance

from icr.base.fields import Fields

Floats = NDArray[np.float64]
QUANTILES = (5, 25, 50, 75, 95)


def centre(states: Floats) -> Floats:
    """H_c."""
    centred: Floats = states - states.mean(axis=0)
    return centred


def largest_share(states: Floats) -> float:
    """σ₁ / Σσ: 1 where all rows lie on one line through 0, 1/min(n, d) where all directions weigh the same.

    NaN where all states are 0.
    """
    sizes = np.linalg.svd(states, compute_uv=False)
    return float(sizes[0] / sizes.sum()) if sizes[0] > 0 else float("nan")


def effective_rank(states: Floats) -> float:
    """exp(−Σ p·log p) with p = σ/Σσ (Roy and Vetterli 2007): how many directions are in use.

    NaN where all states are 0.
    """
    sizes = np.linalg.svd(states, compute_uv=False)
    if sizes[0] == 0:
        return float("nan")
    p = sizes[sizes > 0] / sizes.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def relative_frobenius(states: Floats, base: Floats) -> float:
    """‖H − H₀‖_F / ‖H₀‖_F."""
    return float(np.linalg.norm(states - base) / np.linalg.norm(base))


def cosine_distance(states: Floats, base: Floats) -> float:
    """1 − mean_i cos(h_i, h₀_i)."""
    return float(1 - (_unit(states) * _unit(base)).sum(axis=1).mean())


def cka_distance(states: Floats, base: Floats) -> float:
    """1 − linear CKA (Kornblith et al. 2019): 1 − ‖HᵀH₀‖²_F / (‖HᵀH‖_F·‖H₀ᵀH₀‖_F), all centred.

    It is 0 where one space is the other turned and scaled. NaN where all rows of one are equal.
    """
    a, b = centre(states), centre(base)
    if len(a) <= a.shape[1]:  # the same by ‖AᵀB‖² = tr(AAᵀBBᵀ), over texts and not over dimensions
        k, m = a @ a.T, b @ b.T
        shared, sizes = float((k * m).sum()), float(np.linalg.norm(k) * np.linalg.norm(m))
    else:
        shared = float(np.linalg.norm(a.T @ b) ** 2)
        sizes = float(np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    return 1 - shared / sizes if sizes > 0 else float("nan")


def retrieval(states: Floats, others: Floats) -> float:
    """How often the text of highest cosine in the other language is the translation, from 0 to 1; mean of both ways.

    Args:
        states, others: row i of one is the translation of row i of the other. By chance it is 1/n.
    """
    alike = _unit(states) @ _unit(others).T
    own = np.arange(len(alike))
    return float(((alike.argmax(axis=1) == own).mean() + (alike.argmax(axis=0) == own).mean()) / 2)


def _unit(states: Floats) -> Floats:
    lengths = np.linalg.norm(states, axis=1, keepdims=True)
    unit: Floats = states / np.where(lengths > 0, lengths, 1)
    return unit


def describe_space(states: Floats, base: Floats | None) -> Fields:
    """The figures of one layer and language; distances are None without a base, and figures that do not exist are NaN.

    Args:
        states, base: shape (texts, dimensions).
    """
    moved = {
        name: None if base is None else measure(states, base)
        for name, measure in (("frobenius", relative_frobenius), ("cosine", cosine_distance), ("cka", cka_distance))
    }
    return {
        "n": len(states),
        "largest_share": largest_share(states),
        "largest_share_centred": largest_share(centre(states)),
        "effective_rank": effective_rank(states),
        "effective_rank_centred": effective_rank(centre(states)),
        **moved,
    }


def describe_norms(norms: Floats) -> Fields:
    """Mean, standard deviation (n) and percentiles of the norms of tokens' embeddings."""
    percentiles = {f"p{q}": float(value) for q, value in zip(QUANTILES, np.percentile(norms, QUANTILES), strict=True)}
    return {"tokens": len(norms), "mean": float(norms.mean()), "sd": float(norms.std()), **percentiles}


def norm_distance(norms: Floats, others: Floats) -> float:
    """The Wasserstein-1 distance between two distributions of norms, in the norms' unit."""
    return float(wasserstein_distance(norms, others))
