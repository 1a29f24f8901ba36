"""Win rates of judged pairs, raw and length-controlled as by AlpacaEval's length_controlled_v1 (arXiv 2404.04475).

For judged pair i, with preference y_i of the model in 0…1, a fractional logistic regression by maximum likelihood:

    P(model preferred)_i = σ(w_len·t_i + w_dif·d_i + w_0)
    t_i = tanh((len_baseline_i − len_model_i) / s),  s the standard deviation (n − 1) of that difference over the pairs
    d_i = the given difficulty of the instruction

    LC win rate = 100 · mean_i σ(w_dif·d_i + w_0)    # what is left where both answers are equally long

The pairs of gamed baselines (one model asked to be verbose, and to be concise) enter the same fit without w_0, each
baseline's lengths over its own standard deviation, a pair with weight 0.2 / (number of gamed baselines) against 1 for a
pair of the model. They hold w_len and w_dif near what is known of answers that differ in little but length.

Variants: `length_controlled_v1` (difficulties and gamed pairs), `length_controlled_noreg` (difficulties only),
`length_controlled_minimal` (t and w_0 only). AlpacaEval adds a cross-validated L1 penalty, near zero in practice: its
published values of 57 models differ from the maximum-likelihood ones here by 0.04 points on average, 0.12 at most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from eval.clusters import too_few
from eval.rates import win_rate
from eval.xalpaca.judged_pairs import Floats, JudgedPairs
from eval.xalpaca.logistic import CERTAIN, fit, fit_firth, information, is_separable, leverage, sigmoid
from icr.base.errors import UserError

GAMED_WEIGHT = 0.2  # of all gamed baselines together, AlpacaEval's regularize_to_baseline_lambda
NOT_CONTROLLED = "not_length_controlled"
SEPARABLE = "the features separate wins from losses: fitted with Firth's penalty, which pulls rates towards 50 %"


@dataclass(frozen=True)
class LCResult:
    """Rates and standard errors in percent; a standard error is None where one pair leaves it undefined.

    `variant` says which model was fitted (module docstring), with `_firth` appended where the verdicts were separable;
    `not_length_controlled` means that the LC win rate is the raw one, and `note` says why. `weights` are of the fit;
    `moves` says how far each pair moves the LC win rate, in percent: the root of the summed squares is its error.
    """

    n: int
    win_rate: float
    win_rate_se: float | None
    lc_win_rate: float
    lc_win_rate_se: float | None
    variant: str
    unscored: int = 0
    note: str | None = None
    weights: dict[str, float] | None = None
    moves: tuple[float, ...] | None = None


@dataclass(frozen=True)
class _Design:
    """Rows of the regression: the model's `n` pairs first, then the gamed ones. `x` ends with the column of w_0."""

    x: Floats  # (rows, parameters)
    y: Floats  # (rows,)
    weight: Floats  # (rows,)
    n: int


def length_controlled(
    table: JudgedPairs,
    difficulty: Mapping[str, float] | None = None,
    gamed: Sequence[JudgedPairs] | None = None,
) -> LCResult:
    """Raw and length-controlled win rate of a model's judged pairs (formula in the module docstring).

    Unscored pairs are counted and left out of everything. The LC win rate is the raw one, with a note, where length can
    explain nothing or cannot be separated from quality: all verdicts on one side, the same length difference in all
    pairs, equal lengths far outside the data, no more pairs than parameters. Where the features separate wins from
    losses, the likelihood has no maximum and Firth's penalised one is taken (variant with `_firth`).

    Raises UserError without a single verdict, for difficulties on a table without index, for an index without
    difficulty, and for gamed pairs without difficulties.
    """
    pairs = table.scored()
    unscored = len(table.preference) - len(pairs.preference)
    rate, error = win_rate(pairs.preference)
    if gamed and difficulty is None:
        raise UserError("gamed pairs need difficulties", do="add --difficulty, or leave out --gamed")

    raw = LCResult(len(pairs.preference), rate, error, rate, error, NOT_CONTROLLED, unscored)
    reason = _why_not(pairs, parameters=2 if difficulty is None else 3)
    if reason:
        return replace(raw, note=f"the LC win rate is the raw one: {reason}")

    design = _design(pairs, difficulty, gamed or [])
    if difficulty is not None and np.linalg.matrix_rank(design.x) < design.x.shape[1]:
        plain = length_controlled(table)
        note = "difficulties left out: they are constant in these pairs, or follow from the lengths"
        return replace(plain, note="; ".join(filter(None, (note, plain.note))))
    at_equal = np.concatenate([[0.0], design.x[: design.n, 1:].mean(axis=0)])
    if leverage(design.x, design.weight, at_equal) > 1:
        return replace(
            raw,
            note="the LC win rate is the raw one: the lengths differ too much to estimate the rate at equal lengths",
        )

    separable = is_separable(design.x, design.y)
    w = (fit_firth if separable else fit)(design.x, design.y, design.weight)
    moves = 100 * _moves(design, w)
    names = ("tanh_len", "intercept") if difficulty is None else ("tanh_len", "difficulty", "intercept")
    variant = "minimal" if difficulty is None else "v1" if gamed else "noreg"
    return replace(
        raw,
        lc_win_rate=float(100 * _at_equal_length(design, w).mean()),
        lc_win_rate_se=float(np.sqrt(np.sum(moves**2))),
        variant=f"length_controlled_{variant}" + ("_firth" if separable else ""),
        note=SEPARABLE if separable else None,
        weights=dict(zip(names, w.tolist(), strict=True)),
        moves=tuple(moves.tolist()),
    )


def _why_not(pairs: JudgedPairs, parameters: int) -> str | None:
    """Why no length-controlled model can be fitted to these pairs, or None."""
    y, n = pairs.preference, len(pairs.preference)
    if np.all(y <= CERTAIN) or np.all(y >= 1 - CERTAIN):
        return "every verdict is for the same side"
    if np.ptp(pairs.len_model - pairs.len_baseline) == 0:
        return "the length difference is the same in every pair"
    if n <= parameters:
        return f"{too_few(n, 'pair')} for the {parameters} parameters of the fit"
    return None


def _length_feature(pairs: JudgedPairs) -> Floats:
    """t = tanh((len_baseline − len_model) / s), s the standard deviation of the difference over these pairs."""
    difference = pairs.len_baseline - pairs.len_model
    feature: Floats = np.tanh(difference / difference.std(ddof=1))
    return feature


def _design(pairs: JudgedPairs, difficulty: Mapping[str, float] | None, gamed: Sequence[JudgedPairs]) -> _Design:
    for group in gamed:
        if np.ptp(group.len_model - group.len_baseline) == 0:
            raise UserError(
                f"the length difference is the same in every pair of {group.model}",
                do="check len_model and len_baseline in its rows",
            )
    groups = [pairs, *gamed]
    sizes = [len(group.preference) for group in groups]
    columns = [np.concatenate([_length_feature(group) for group in groups])]
    if difficulty is not None:
        columns.append(np.concatenate([_difficulties(group, difficulty) for group in groups]))
    columns.append(np.repeat([1.0] + [0.0] * len(gamed), sizes))
    weight = np.repeat([1.0] + [GAMED_WEIGHT / len(gamed) for _ in gamed], sizes)
    return _Design(np.stack(columns, axis=1), np.concatenate([g.preference for g in groups]), weight, sizes[0])


def _difficulties(pairs: JudgedPairs, difficulty: Mapping[str, float]) -> Floats:
    if pairs.index is None:
        raise UserError(
            "the judged pairs have no column index, so the difficulties cannot be joined",
            do="add the index of each pair's instruction, or remove the difficulties",
        )
    for i, index in enumerate(pairs.index):
        if index not in difficulty:
            raise UserError(
                f"index {index} has no difficulty",
                where=f"{pairs.where[i]}, column index" if pairs.where else pairs.model,
                do="add it to the difficulties, or remove the difficulties",
            )
    return np.array([difficulty[index] for index in pairs.index])


def _at_equal_length(design: _Design, w: Floats) -> Floats:
    """σ(w_dif·d + w_0) of each pair of the model: its preference were both answers equally long."""
    return sigmoid(design.x[: design.n, 1:] @ w[1:])


def _moves(design: _Design, w: Floats) -> Floats:
    """How far each pair of the model moves mean_i p_i, p = `_at_equal_length`: shape (n,); their root sum of squares is
    its standard error, by the delta method with the sandwich covariance of w.

    A pair moves the rate by (p_i − mean p)/n through its instruction and by ∇·A⁻¹·x_i(y_i − σ(x_i w)) through w, where
    ∇ is the gradient of mean p and A the information of all rows; all of it less its mean, times √(n/(n − k)) for k
    parameters. With w_0 alone the error is exactly the raw win rate's error. Gamed pairs and s count as
    fixed. AlpacaEval reports the standard error of the p_i instead, which holds no uncertainty of w.
    """
    x, n, k = design.x[: design.n], design.n, len(w)
    p = _at_equal_length(design, w)
    at_equal = np.concatenate([np.zeros((n, 1)), x[:, 1:]], axis=1)
    gradient = at_equal.T @ (p * (1 - p)) / n
    residual = design.y[:n] - sigmoid(x @ w)
    through_w = x @ np.linalg.solve(information(design.x, design.weight, w), gradient) * residual
    influence = (p - p.mean()) / n + through_w
    moves: Floats = (influence - influence.mean()) * np.sqrt(n / (n - k))
    return moves
