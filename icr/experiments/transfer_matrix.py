"""The matrix of source × target accuracies: which source is best for a target, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from eval.reward_models.accuracy import compare_rights
from eval.reward_models.bootstrap import Floats, draw_weights
from eval.reward_models.ranks import rank_sources, ranking_agreement
from eval.reward_models.scoring import Measured
from icr.base.fields import Fields

KEYS = (
    "n", "groups", "accuracy", "accuracy_interval", "auc", "auc_interval", "length", "above_length",
    "above_length_interval", "majority", "human_agreement", "dropped",
)  # fmt: skip
"""Of `eval.reward_models.accuracy`, in a cell."""


def make_matrix(
    measured: Mapping[str, Mapping[str, Measured]], targets: Sequence[str], planned: Sequence[str]
) -> Fields:
    """Everything that the report shows.

    Args:
        measured: source → target → one model on the rows of one language.
        planned: all sources of the experiment, measured or not.

    Returns:
        `cells`, a row for each source and target; `targets`, for each: the order of the sources, the probability of
        each to be the best, and the best one's differences to the others; `agreement`, Kendall's τ between the orders
        of two targets; `missing`, sources without a model.
    """
    sources = [source for source in planned if source in measured]
    cells = [
        {"source": source, "target": target, **_cell(measured[source][target].figures)}
        for source in sources
        for target in targets
    ]
    return {
        "sources": sources,
        "missing": [source for source in planned if source not in measured],
        "cells": cells,
        "targets": {target: _rank({s: measured[s][target] for s in sources}) for target in targets} if sources else {},
        "agreement": _agreements(measured, sources, targets),
    }


def _cell(figures: Fields) -> Fields:
    return {key: figures.get(key) for key in KEYS}


def _rank(models: Mapping[str, Measured]) -> Fields:
    """The sources of one target: rank, probability to be the best, and the best one minus each other."""
    sources = list(models)
    values = [models[source].figures.get("accuracy") for source in sources]
    if any(value is None for value in values):
        return {"order": [], "why": "a model has no score"}
    ranks = rank_sources([[float(value or 0)] for value in values])[:, 0]
    order = sorted(sources, key=lambda source: int(ranks[sources.index(source)]))
    best = models[order[0]]
    chances = best_chances([models[source].right for source in sources], best.groups)
    return {
        "order": order,
        "ranks": {source: int(ranks[sources.index(source)]) for source in order},
        "chances": None if chances is None else {s: float(chances[sources.index(s)]) for s in order},
        "ahead": {s: compare_rights(models[s].right, best.right, best.groups) for s in order[1:]},
    }


def best_chances(rights: Sequence[Floats], groups: Sequence[str], seed: int = 0) -> Floats | None:
    """P(a source is the best) over bootstrap samples of the groups, the same for all sources; equal ones share it.

    Args:
        rights: of each source, 1, 0.5 or 0 for each row; NaN without a score.
        groups: of the rows.

    Returns:
        Shape (sources,), summing to 1; None where there are too few groups.
    """
    weights = draw_weights(groups, seed)
    if weights is None:
        return None
    there = np.isfinite(np.array(rights)).all(axis=0)
    drawn = weights[:, there]
    means = np.array([drawn @ right[there] for right in rights]) / np.maximum(drawn.sum(axis=1), 1e-12)
    best = np.isclose(means, means.max(axis=0), rtol=0, atol=1e-12)
    shares: Floats = (best / best.sum(axis=0)).mean(axis=1)
    return shares


def _agreements(
    measured: Mapping[str, Mapping[str, Measured]], sources: Sequence[str], targets: Sequence[str]
) -> list[Fields]:
    """Kendall's τ between the orders of the sources for every two targets; none for fewer than two sources."""
    if len(sources) < 2:
        return []
    found = []
    for i, one in enumerate(targets):
        for other in targets[i + 1 :]:
            columns = [[[measured[s][t].figures.get("accuracy") or 0.0] for s in sources] for t in (one, other)]
            tau = float(ranking_agreement(*columns)[0])
            found.append({"targets": [one, other], "tau": tau if np.isfinite(tau) else None})
    return found
