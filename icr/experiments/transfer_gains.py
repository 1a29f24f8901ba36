"""What best of n gains in every target: score increases, best-of-k curves, win rates, and the orders by them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from eval.best_of_k import summarise_wins
from eval.clusters import Part, estimate
from eval.folders import summary_path, verdicts_folder
from eval.reward_models.ranks import order_agreement
from eval.reward_models.scoring import Measured
from eval.xalpaca.items import read_items
from icr.base.fields import Fields
from icr.base.files import read_json, read_rows
from icr.config.transfer import language_of
from icr.experiments.best_answers import RESULT, Scored, read_scores
from icr.experiments.transfer_matrix import compare_orders, compare_sides, compare_variants, rank_targets
from icr.experiments.transfer_trained import METHODS

WIN_RATE = "win_rate"


def describe_gains(
    steps: Path,
    sources: Sequence[str],
    targets: Sequence[str],
    judges: Sequence[str],
    done: Collection[str],
    translated: Sequence[tuple[str, str]] = (),
) -> Fields:
    """Everything that the finished cells say.

    Args:
        steps: RUN/steps.
        sources, judges: of the experiment.
        targets: its places, see `TransferConfig.places`.
        done: names of the finished cells.
        translated: as for `compare_variants`.

    Returns:
        `increase`, a row for each chooser, target and scorer; `best_of_k`, a row for each chooser, target and k;
        `expected_wins`, a row for each judge of all candidates, chooser, target and k;
        `judges`, for each judge its `cells`, `targets` (ranks), `agreement` between targets, `variants` with
        translations, and under `dpo` and `rl` the same of policies trained by DPO and RLOO; `same_order`, how often two
        judges order two sources alike.
    """
    found = {judge: _read_verdicts(steps, f"judge-{judge}", sources, targets, done) for judge in judges}
    trained = {
        judge: {method: _read_verdicts(steps, f"judge-{judge}-{method}", sources, targets, done) for method in METHODS}
        for judge in judges
    }
    return {
        "increase": [row for target in targets for row in _increases(steps, sources, target, done)],
        "best_of_k": [
            {"source": source, "target": target, **row}
            for target in targets
            for source in sources
            if f"best-{source}-{target}" in done
            for row in _curve(steps / f"best-{source}-{target}", language_of(target))
        ],
        "expected_wins": [
            row
            for judge in judges
            for target in targets
            if f"wins-{judge}-{target}" in done
            for source in sources
            if f"scores-{source}-on-{target}" in done
            for row in _expected(steps, judge, source, target)
        ],
        "judges": {
            judge: _judge(measured, targets, translated)
            | {method: _judge(of, targets, translated) for method, of in trained[judge].items() if any(of.values())}
            for judge, measured in found.items()
        },
        "same_order": [
            {"judges": [a, b], "share": _alike(found[a], found[b], targets)} for a, b in combinations(judges, 2)
        ],
    }


def _increases(steps: Path, sources: Sequence[str], target: str, done: Collection[str]) -> list[Fields]:
    """Any model's mean score of the best answers minus that of the first candidates, over the prompts."""
    scores = {
        source: read_scores(steps / f"scores-{source}-on-{target}" / f"{language_of(target)}.parquet")
        for source in sources
        if f"scores-{source}-on-{target}" in done
    }
    rows = []
    for source in scores:
        if f"best-{source}-{target}" not in done:
            continue
        answers = read_rows(steps / f"best-{source}-{target}" / "answers.parquet", ["prompt_id", "sample"])
        chosen = {row["prompt_id"]: int(row["sample"]) for row in answers}
        for scorer, of_scorer in scores.items():
            rows.append({"source": source, "target": target, "scored_by": scorer, **increase_of(of_scorer, chosen)})
    return rows


def increase_of(scores: Scored, chosen: Mapping[str, int]) -> Fields:
    """Mean over the prompts of the chosen candidate's score minus the first one's, with its 95 % interval.

    Args:
        chosen: prompt id → place of the chosen candidate.

    Returns:
        `n`, `increase`, `increase_interval`, and `left_out`: prompts where one of the two has no score.
    """
    gaps = {}
    for id, place in chosen.items():
        first, best = scores[id][0], scores[id][place]
        if first is not None and best is not None:
            gaps[id] = best - first
    facts: Fields = {"n": len(gaps), "left_out": len(chosen) - len(gaps)}
    if not gaps:
        return facts | {"increase": None, "increase_interval": None}
    of = estimate([Part.of(gaps)])
    return facts | {"increase": of.value, "increase_interval": None if of.low is None else [of.low, of.high]}


def _curve(folder: Path, target: str) -> list[Fields]:
    result = read_json(folder / RESULT)
    return [
        {
            "k": row["k"],
            "kl_bound": row["kl_bound"],
            "n": row["languages"][target]["n"],
            "score": row["languages"][target]["score"],
            "score_interval": row["languages"][target]["score_interval"],
        }
        for row in result["best_of_k"]
    ]


def _expected(steps: Path, judge: str, source: str, target: str) -> list[Fields]:
    """The expected win rate of the best of k under one source's scores, by one judge."""
    lang = language_of(target)
    scores = {lang: read_scores(steps / f"scores-{source}-on-{target}" / f"{lang}.parquet")}
    wins = read_json(steps / f"wins-{judge}-{target}" / "wins.json")
    n = max(map(len, scores[lang].values()))
    return [
        {"judge": judge, "source": source, "target": target, "k": row["k"], "kl_bound": row["kl_bound"]}
        | {key: row["languages"][lang][key] for key in ("n", WIN_RATE, "win_rate_interval")}
        for row in summarise_wins(scores, wins, n, n)
    ]


def _read_verdicts(
    steps: Path, cell: str, sources: Sequence[str], targets: Sequence[str], done: Collection[str]
) -> dict[str, dict[str, Measured]]:
    """Target → source → win rates and the preference of every prompt that any source was judged on.

    Args:
        cell: the beginning of the cells' names: judge-JUDGE, or judge-JUDGE-METHOD.
    """
    found: dict[str, dict[str, Measured]] = {}
    for target in targets:
        of = {source: steps / f"{cell}-{source}-{target}" for source in sources if f"{cell}-{source}-{target}" in done}
        lang = language_of(target)
        preferences = {
            source: read_items(read_rows(verdicts_folder(folder, "xalpaca") / f"{lang}.parquet")).preferences
            for source, folder in of.items()
        }
        prompts = sorted({id for rows in preferences.values() for id in rows})
        found[target] = {
            source: Measured(
                read_json(summary_path(folder, "xalpaca"))["languages"][lang],
                np.array([preferences[source].get(id, np.nan) for id in prompts]),
                prompts,
            )
            for source, folder in of.items()
        }
    return found


def _judge(
    measured: Mapping[str, Mapping[str, Measured]], targets: Sequence[str], translated: Sequence[tuple[str, str]]
) -> Fields:
    """What one judge says."""
    cells = [
        {"source": source, "target": target, **{key: of.figures.get(key) for key in KEYS}}
        for target in targets
        for source, of in measured[target].items()
    ]
    variants = {"variants": compare_variants(measured, translated, WIN_RATE)} if translated else {}
    sides = compare_sides(measured, WIN_RATE)
    variants |= {"demonstrations": sides} if sides else {}
    return {"cells": cells, **rank_targets(measured, WIN_RATE), **variants}


KEYS = ("n", WIN_RATE, "win_rate_interval", "lc_win_rate", "unscored", "identical", "position_bias", "mean_length",
        "mean_length_baseline", "right_language")  # fmt: skip
"""Of a language in a judge's summary, in a cell."""


def _alike(
    one: Mapping[str, Mapping[str, Measured]], other: Mapping[str, Mapping[str, Measured]], targets: Sequence[str]
) -> float | None:
    """Over all pairs of sources of all targets; None where no target has two sources that both have judged."""
    shares, counts = [], []
    for target in targets:
        both = [source for source in one[target] if source in other[target]]
        columns = [[[_rate(of[target][source])] for source in both] for of in (one, other)]
        if len(both) > 1 and all(value[0] is not None for column in columns for value in column):
            shares.append(order_agreement(*columns))  # type: ignore[arg-type]
            counts.append(len(both) * (len(both) - 1) / 2)
    return float(np.average(shares, weights=counts)) if shares else None


def _rate(of: Measured) -> float | None:
    value = of.figures.get(WIN_RATE)
    return None if value is None else float(value)


def compare_with_accuracy(result: Fields) -> list[Fields]:
    """Kendall's τ between the orders of the sources by accuracy and by win rate, for each judge and target."""
    accuracy = {(cell["source"], cell["target"]): cell["accuracy"] for cell in result["cells"]}
    rows = []
    for judge, of in result["judges"].items():
        rates = {(cell["source"], cell["target"]): cell[WIN_RATE] for cell in of["cells"]}
        for target in dict.fromkeys(target for _, target in rates):
            lang = language_of(target)
            ranked = [s for s, t in rates if t == target and rates[s, t] is not None]
            both = [s for s in ranked if accuracy.get((s, lang)) is not None]
            values = [[float(accuracy[s, lang]) for s in both], [float(rates[s, target]) for s in both]]
            rows.append({"judge": judge, "target": target, "sources": both, "tau": compare_orders(*values)})
    return rows
