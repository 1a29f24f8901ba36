"""Win rates at equal style, as the style control of LMArena (Li, Angelopoulos and Chiang 2024, "Does style matter?").

A Bradley–Terry model of the preference y_i for the model's answer, with four features of style beside the strength:

    P(model preferred)_i = σ(β_0 + Σ_k γ_k·z_ik)        z_k = (a_k − b_k)/(a_k + b_k)

of the model's answer a and the baseline's b: their lengths, and one more than their numbers of headers, list items and
bold passages. The style-controlled win rate is 100·σ(β_0), what is left where both answers have the same style.

LMArena counts tokens of one model's tokenizer, here lengths are in characters; it divides each z by its standard
deviation, which changes γ and not β_0; it also subtracts its mean, which for two models only would make their usual
difference of style count as equal style.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eval.clusters import Part, too_few
from eval.xalpaca.judged_pairs import Floats
from eval.xalpaca.logistic import fit, fit_firth, information, is_separable, leverage, sigmoid
from icr.languages import drop_code

FEATURES = ("length", "headers", "lists", "bold")
HEADER = re.compile(r"^ {0,3}#{1,6}[ \t]", re.MULTILINE)
ITEM = re.compile(r"^[ \t]*(?:[-*+]|\d{1,9}[.)])[ \t]", re.MULTILINE)
BOLD = re.compile(r"\*\*(?=\S)[^*\n]+(?<=\S)\*\*|__(?=\S)[^_\n]+(?<=\S)__")
PER_PARAMETER = 5
"""Prompts that each parameter of the fit needs."""


@dataclass(frozen=True)
class Style:
    """What is counted of an answer; fenced code counts by its length alone."""

    length: int
    headers: int
    lists: int
    bold: int


def count_style(text: str) -> Style:
    prose = drop_code(text)
    return Style(len(text), *(len(pattern.findall(prose)) for pattern in (HEADER, ITEM, BOLD)))


def contrast(ours: Style, theirs: Style) -> list[float]:
    """z of two answers, in the order of FEATURES: from −1 to 1, and 0 where both have as much."""
    length = ours.length + theirs.length
    found = [(ours.length - theirs.length) / length if length else 0.0]
    for a, b in ((ours.headers, theirs.headers), (ours.lists, theirs.lists), (ours.bold, theirs.bold)):
        found.append((a - b) / (a + b + 2))
    return found


@dataclass(frozen=True)
class Controlled:
    """The win rate at equal style in percent, and what each feature of style is worth."""

    part: Part
    weights: dict[str, float]
    """γ by name of the feature."""


def control_style(preferences: Mapping[str, float], contrasts: Mapping[str, Sequence[float]]) -> Controlled | str:
    """The fit for one language; or why there is none.

    A prompt moves the rate by 100·p(1 − p)·(A⁻¹x_i)_0·(y_i − p_i), with p = σ(β_0), x_i = (1, z_i) and A the
    information of all (the sandwich estimator), times √(n/(n − k)) for k parameters. Where style separates wins from
    losses, the likelihood has no maximum, and Firth's penalised one is taken, as for the length-controlled rate.

    Args:
        preferences: prompt id → preference of the model, 0 to 1.
        contrasts: prompt id → `contrast` of the two answers. A feature that is the same in all prompts is left out.
    """
    y = np.array(list(preferences.values()))
    z = np.array([contrasts[id] for id in preferences]).reshape(len(y), len(FEATURES))
    used = [k for k in range(len(FEATURES)) if np.ptp(z[:, k]) > 0] if len(y) else []
    x: Floats = np.column_stack([np.ones(len(y)), z[:, used]])
    if len(y) < PER_PARAMETER * x.shape[1]:
        return f"{too_few(len(y), 'prompt')} for the {x.shape[1]} parameters of the fit"
    if np.linalg.matrix_rank(x) < x.shape[1]:
        return "the features of style cannot be told apart"
    weight, equal = np.ones(len(y)), np.eye(x.shape[1])[0]
    if leverage(x, weight, equal) > 1:
        return "the styles differ too much to estimate the rate at equal style"
    w = (fit_firth if is_separable(x, y) else fit)(x, y, weight)
    p = float(sigmoid(w[:1])[0])
    moves = 100 * p * (1 - p) * influence(x, y, w)[:, 0]
    weights = {FEATURES[k]: float(value) for k, value in zip(used, w[1:], strict=True)}
    return Controlled(Part(100 * p, dict(zip(preferences, moves.tolist(), strict=True))), weights)


def influence(x: Floats, y: Floats, w: Floats) -> Floats:
    """How far each row moves w, shape (rows, parameters); their cross products sum to the sandwich covariance."""
    n, k = x.shape
    scores = (x * (y - sigmoid(x @ w))[:, None]).T
    found: Floats = np.linalg.solve(information(x, np.ones(n), w), scores).T * np.sqrt(n / (n - k))
    return found
