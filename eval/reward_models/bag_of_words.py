"""How much of a reward model's scores its words explain, whatever their order: a linear regressor from word counts.

With X the counts of the words (one row a text), y the scores, both centred, and λ the penalty:

    w = (XᵀX + λI)⁻¹ Xᵀy        R² = 1 − Σ(y − ŷ)² / Σ(y − ȳ)²

R² in sample is what arXiv 2404.12318 reports. Held out, a text is predicted by a regressor that saw none of its group
(the responses to one prompt), and ȳ is the mean of all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from eval.clusters import FEWEST, too_few
from icr.base.fields import Fields
from icr.base.words import split_words

Floats = NDArray[np.float64]
MOST_WORDS = 2000
FEWEST_TEXTS = 5
"""That a word has to be in, to be counted."""
PENALTY = 1.0
FOLDS = 5
SHOWN = 10
"""Words at either end."""


@dataclass(frozen=True)
class Counts:
    """How often each word is in each text."""

    words: list[str]
    table: csr_array
    """Shape (texts, words)."""


def count_words(texts: Sequence[str], most: int = MOST_WORDS, fewest: int = FEWEST_TEXTS) -> Counts:
    """The words that are in the most texts, equal ones in the order of their characters.

    Args:
        most: words; fewest: texts that each has to be in.
    """
    counted = [Counter(split_words(text)) for text in texts]
    texts_with = Counter(word for counts in counted for word in counts)
    kept = sorted((word for word, n in texts_with.items() if n >= fewest), key=lambda word: (-texts_with[word], word))
    words = kept[:most]
    place = {word: n for n, word in enumerate(words)}
    cells = [(row, place[w], n) for row, counts in enumerate(counted) for w, n in counts.items() if w in place]
    rows, columns, values = zip(*cells, strict=True) if cells else ((), (), ())
    table = csr_array((np.array(values, dtype=np.float64), (rows, columns)), shape=(len(texts), len(words)))
    return Counts(words, table)


def fit_words(table: csr_array, scores: Floats, penalty: float = PENALTY) -> tuple[Floats, float]:
    """(w, intercept) of the module docstring.

    Args:
        table: shape (texts, words); scores: shape (texts,).
    """
    mean = np.asarray(table.mean(axis=0)).ravel()
    squares = (table.T @ table).toarray() - len(scores) * np.outer(mean, mean)
    products = table.T @ (scores - scores.mean())
    weights = np.linalg.solve(squares + penalty * np.eye(len(mean)), products)
    return weights, float(scores.mean() - mean @ weights)


def r_squared(scores: Floats, predicted: Floats) -> float:
    """1 − Σ(y − ŷ)² / Σ(y − ȳ)². Raises ValueError where all scores are equal."""
    spread = float(((scores - scores.mean()) ** 2).sum())
    if spread == 0:
        raise ValueError("all scores are equal")
    return 1 - float(((scores - predicted) ** 2).sum()) / spread


def predict_held_out(table: csr_array, scores: Floats, groups: Sequence[str], seed: int = 0) -> Floats:
    """Each text's score as predicted without the texts of its fold. Folds are of whole groups, drawn by `seed`.

    Raises:
        ValueError: fewer groups than folds.
    """
    names, place = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < FOLDS:
        raise ValueError(f"{len(names)} groups for {FOLDS} folds")
    fold = np.random.default_rng(seed).permutation(len(names))[place] % FOLDS
    predicted = np.empty(len(scores))
    for n in range(FOLDS):
        held = fold == n
        weights, intercept = fit_words(table[~held], scores[~held])
        predicted[held] = table[held] @ weights + intercept
    return predicted


def explain_scores(texts: Sequence[str], scores: Sequence[float], groups: Sequence[str]) -> Fields:
    """How far words, and length alone, explain the scores of texts in one language.

    Args:
        groups: of the texts.

    Returns:
        `r2` in sample, `r2_held_out`, `r2_length` (of a line through characters against scores), and `raising` and
        `lowering`, the words that move the scores most. A word's `effect` is its weight times the standard deviation of
        its counts: how far it moves scores in these texts. What is None is explained in `why`.
    """
    y, found = np.asarray(scores, dtype=np.float64), count_words(texts)
    facts: Fields = {"n": len(texts), "words": len(found.words)}
    names = ("r2", "r2_held_out", "r2_length")
    problem = None
    if len(set(groups)) < max(FOLDS, FEWEST):
        problem = too_few(len(set(groups)), "text group")
    elif np.ptp(y) == 0:
        problem = "all scores are equal"
    elif not found.words:
        problem = f"no word is in {FEWEST_TEXTS} texts"
    if problem:
        return facts | dict.fromkeys(names) | {"raising": [], "lowering": [], "why": dict.fromkeys(names, problem)}
    weights, intercept = fit_words(found.table, y)
    lengths = np.array([float(len(text)) for text in texts])
    return facts | {
        "r2": r_squared(y, found.table @ weights + intercept),
        "r2_held_out": r_squared(y, predict_held_out(found.table, y, groups)),
        "r2_length": float(np.corrcoef(lengths, y)[0, 1] ** 2) if np.ptp(lengths) > 0 else 0.0,
        **_heaviest(found, weights),
    }


def _heaviest(found: Counts, weights: Floats) -> Fields:
    """The words at either end of the effects."""
    mean = np.asarray(found.table.mean(axis=0)).ravel()
    deviation = np.sqrt(np.maximum(np.asarray((found.table**2).mean(axis=0)).ravel() - mean**2, 0))
    effects = weights * deviation
    order = np.argsort(effects, kind="stable")
    rows = [{"word": found.words[n], "weight": float(weights[n]), "effect": float(effects[n])} for n in order]
    return {
        "raising": [row for row in rows[::-1][:SHOWN] if row["effect"] > 0],
        "lowering": [row for row in rows[:SHOWN] if row["effect"] < 0],
    }
