"""The matrix of source × target accuracies: which source is best for a target, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from eval.reward_models.accuracy import compare_rights
from eval.reward_models.bootstrap import Floats, draw_weights
from eval.reward_models.ranks import rank_sources, ranking_agreement
from eval.reward_models.scoring import Measured
from icr.base.fields import Fields
from icr.config.transfer import language_of, side_of

KEYS = (
    "n", "groups", "accuracy", "accuracy_interval", "auc", "auc_interval", "length", "length_auc", "above_length",
    "above_length_interval", "majority", "human_agreement", "dropped",
)  # fmt: skip
"""Of `eval.reward_models.accuracy`, in a cell."""


def make_matrix(
    measured: Mapping[str, Mapping[str, Measured]], targets: Sequence[str], planned: Sequence[str]
) -> Fields:
    """Everything that the report shows of accuracy.

    Args:
        measured: source → target → one model on the rows of one language.
        planned: all sources of the experiment, measured or not.

    Returns:
        `cells`, a row for each source and target; `targets` and `agreement`, as `rank_targets` has them; `missing`,
        sources without a model.
    """
    sources = [source for source in planned if source in measured]
    cells = [
        {"source": source, "target": target, **_cell(measured[source][target].figures)}
        for source in sources
        for target in targets
        if target in measured[source]
    ]
    by_target = {t: {source: measured[source][t] for source in sources if t in measured[source]} for t in targets}
    return {
        "sources": sources,
        "missing": [source for source in planned if source not in measured],
        "cells": cells,
        **rank_targets(by_target if sources else {}, "accuracy"),
    }


def rank_targets(measured: Mapping[str, Mapping[str, Measured]], value: str) -> Fields:
    """The sources of each target, and whether targets agree on them.

    Args:
        measured: target → source → its figures, and what is right of each row.
        value: the figure to rank by; in percent, of which `right` is the mean.

    Returns:
        `targets`, for each: the order of the sources, the probability of each to be the best, and the best one's
        differences to the others; `agreement`, Kendall's τ between the orders of two targets.
    """
    ranked = {target: models for target, models in measured.items() if models}
    return {
        "targets": {target: _rank(models, value) for target, models in ranked.items()},
        "agreement": [
            {"targets": [one, other], "tau": _tau(ranked[one], ranked[other], value)}
            for one, other in combinations(ranked, 2)
            if len([source for source in ranked[one] if source in ranked[other]]) > 1
        ],
    }


def compare_variants(
    measured: Mapping[str, Mapping[str, Measured]], translated: Sequence[tuple[str, str]], value: str
) -> list[Fields]:
    """Monolingual against transfer against translate-train, for each source and target.

    Args:
        measured: target → source → its figures, and what is right of each row; as for `rank_targets`.
        translated: (source, target) with a model on translated rows, which is called SOURCE-to-TARGET.
        value: the figure; in percent, of which `right` is the mean.

    Returns:
        For each: the three figures, and the differences of two on the rows that both have scored, with 95 % intervals
        by a bootstrap over groups; None where a model is missing.
    """
    rows = []
    for source, place in [(source, place) for source, target in translated for place in _places(measured, target)]:
        of, target = measured.get(place, {}), language_of(place)
        names = {"monolingual": target, "transfer": source, "translate_train": f"{source}-to-{target}"}
        there = {variant: of[name] for variant, name in names.items() if name in of}
        row: Fields = {"source": source, "target": place, "value": value}
        row |= {variant: there[variant].figures.get(value) if variant in there else None for variant in names}
        for one, other in (("monolingual", "transfer"), ("transfer", "translate_train"),
                           ("monolingual", "translate_train")):  # fmt: skip
            key, both = f"{other}_minus_{one}", one in there and other in there
            found = compare_rights(there[one].right, there[other].right, there[one].groups) if both else {}
            row |= {key: found.get("difference"), f"{key}_interval": found.get("difference_interval")}
        rows.append(row)
    return rows


def _places(measured: Mapping[str, object], target: str) -> list[str]:
    """Those of a target."""
    return [place for place in measured if language_of(place) == target] or [target]


def compare_sides(measured: Mapping[str, Mapping[str, Measured]], value: str) -> list[Fields]:
    """Policies that were fine-tuned on other demonstrations against the target's organic one, for each source.

    Args:
        measured: place → source → its figures, and what is right of each row; as for `rank_targets`.
        value: the figure; in percent, of which `right` is the mean.

    Returns:
        For each source, target and other side: `organic`, `figure`, and their `difference` on the rows that both have,
        with the 95 % interval by a bootstrap over groups; None where there are too few.
    """
    rows = []
    for place, models in measured.items():
        target = language_of(place)
        organic = measured.get(target, {}) if place != target else {}
        for source in (source for source in models if source in organic):
            one, other = organic[source], models[source]
            found = compare_rights(*_on_same_rows(one, other))
            rows.append(
                {"source": source, "target": target, "demonstrations": side_of(place), "value": value,
                 "organic": one.figures.get(value), "figure": other.figures.get(value),
                 "difference": found.get("difference"), "difference_interval": found.get("difference_interval")}
            )  # fmt: skip
    return rows


def _on_same_rows(one: Measured, other: Measured) -> tuple[Floats, Floats, list[str]]:
    """What is right by each on all rows of both, in one order, and the groups of these rows."""
    groups = sorted({*one.groups, *other.groups})
    columns = [dict(zip(of.groups, of.right, strict=True)) for of in (one, other)]
    first, second = (np.array([column.get(group, np.nan) for group in groups]) for column in columns)
    return first, second, groups


def _cell(figures: Fields) -> Fields:
    return {key: figures.get(key) for key in KEYS}


def _rank(models: Mapping[str, Measured], value: str) -> Fields:
    """The sources of one target: rank, probability to be the best, and the best one minus each other."""
    sources = list(models)
    values = [models[source].figures.get(value) for source in sources]
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


def _tau(one: Mapping[str, Measured], other: Mapping[str, Measured], value: str) -> float | None:
    """Between the orders of the sources that both targets have."""
    both = [source for source in one if source in other]
    columns = [[of[source].figures.get(value) or 0.0 for source in both] for of in (one, other)]
    return compare_orders(*columns)


def compare_orders(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Kendall's τ between two orders of the same sources; None for fewer than two, and where all are equal."""
    if len(one) < 2:
        return None
    tau = float(ranking_agreement([[value] for value in one], [[value] for value in other])[0])
    return tau if np.isfinite(tau) else None


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
