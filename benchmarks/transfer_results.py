"""What the transfer benchmark's runs show: figures with intervals, as tables, JSON and a plot."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.transfer_measures import Estimate, Pairs, mean, prompt_pairs, within_prompt_auc
from benchmarks.transfer_runs import ABLATIONS, LANGUAGES, RUNS, TARGETS, Bench, Model
from icr.base.files import atomic_path, read_json, read_rows
from icr.base.rundir import RoundDir
from icr.languages import detect
from icr.rows import is_empty

Row = dict[str, Any]
MEASURES: dict[str, Callable[[Model, Row], float]] = {
    "property": lambda model, row: model.has(row["response"]),
    "empty": lambda _, row: is_empty(row),
    "right language": lambda _, row: detect(row["response"]) == row["lang"],
    "characters": lambda _, row: len(row["response"].strip()),
    "tokens": lambda _, row: len(row["token_ids"]),
}
"""What is measured of a held-out answer. An unknown language is not the right one."""


def ranking(bench: Bench, names: Sequence[str]) -> Row:
    """AUC of each run's reward in round 1: {language or "targets": {run: {"all": …, "like length": …}}}.

    The rewards are without length penalty; `length` ranks by the number of tokens alone. "like length" counts only
    pairs of responses that differ by a tenth in tokens at most.
    """
    found: Row = {}
    pairs: dict[tuple[str, str], dict[str, Pairs]] = {}
    for lang in LANGUAGES:
        responses = read_rows(bench.run(names[0]).round(1).responses / f"{lang}.parquet")
        labels = {_key(row): bench.model.has(row["response"]) for row in responses}
        tokens = {_key(row): float(len(row["token_ids"])) for row in responses}
        scores = {name: unpenalised(bench.run(name).round(1), lang) for name in names} | {"length": tokens}
        found[lang] = {"responses": len(labels), "rate": mean([*labels.values()]).value}
        for name, rewards in scores.items():
            keys = [key for key in labels if key in rewards]
            columns = [rewards[k] for k in keys], [labels[k] for k in keys], [k[0] for k in keys]
            pairs.setdefault((name, "all"), {})[lang] = prompt_pairs(*columns)
            pairs.setdefault((name, "like length"), {})[lang] = prompt_pairs(*columns, [tokens[k] for k in keys])
            found[lang][name] = {"scored": len(keys)}
    found["targets"] = {name: {} for name, _ in pairs}
    for (name, sort), of in pairs.items():
        for lang in LANGUAGES:
            found[lang][name][sort] = within_prompt_auc([of[lang]])
        found["targets"][name][sort] = within_prompt_auc([of[lang] for lang in TARGETS])
    return found


def unpenalised(at: RoundDir, lang: str) -> dict[tuple[str, int], float]:
    """(prompt, sample) → reward without length penalty, of the responses that were scored at all."""
    alpha = read_json(at.lengths)[lang]["alpha"]
    rows = read_rows(at.rewards / f"{lang}.parquet")
    rewards = {_key(row): row["reward"] + alpha * row["length"] for row in rows if row["reward"] is not None}
    return {key: value for key, value in rewards.items() if math.isfinite(value)}


def held_out(bench: Bench, models: Sequence[str]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """model → measure → language → one mean a prompt, prompts in the same order for every model."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for model in models:
        found[model] = {measure: {} for measure in MEASURES}
        for lang in LANGUAGES:
            rows = read_rows(bench.heldout(model).round(1).responses / f"{lang}.parquet")
            prompts: dict[str, list[Row]] = {}
            for row in rows:
                prompts.setdefault(row["prompt_id"], []).append(row)
            for measure, of in MEASURES.items():
                found[model][measure][lang] = [
                    float(np.mean([of(bench.model, row) for row in prompts[key]])) for key in sorted(prompts)
                ]
    return found


def targets(values: dict[str, list[float]]) -> list[float]:
    """The mean over the target languages, a prompt: the languages' prompts are parallel and so no independent draws."""
    return [float(np.mean(per)) for per in zip(*(values[lang] for lang in TARGETS), strict=True)]


def summary(values: dict[str, dict[str, dict[str, list[float]]]], pairs: Sequence[tuple[str, str]]) -> Row:
    """Levels of every model, and differences of `pairs` (model, beside), all with intervals over prompts."""
    wide = {
        model: {m: {**per, "targets": targets(per)} for m, per in measures.items()}
        for model, measures in values.items()
    }
    levels = {
        model: {m: {lang: mean(v) for lang, v in per.items()} for m, per in measures.items()}
        for model, measures in wide.items()
    }
    differences = {
        f"{model} − {beside}": {
            m: {lang: mean(np.subtract(v, wide[beside][m][lang])) for lang, v in per.items()}
            for m, per in wide[model].items()
        }
        for model, beside in pairs
    }
    return {"levels": levels, "differences": differences}


def lengths(bench: Bench, rounds: dict[str, int]) -> Row:
    """Per run, round and language: α, and the mean length gap of chosen and rejected in characters."""
    found: Row = {}
    for name, last in rounds.items():
        for number in range(1, last + 1):
            of = bench.run(name).round(number)
            entry, pairs = read_json(of.lengths), of.record.stages["pair"].counts["languages"]
            found[f"{name} {number}"] = {
                lang: {
                    "alpha": entry[lang]["alpha"],
                    "gap": pairs[lang]["chosen_length"] - pairs[lang]["rejected_length"],
                    "pairs": pairs[lang]["pairs"],
                }
                for lang in LANGUAGES
            }
    return found


def pair_quality(bench: Bench, rounds: dict[str, int]) -> Row:
    """Per run, round and language: of the pairs that differ in the property, how many chose the one that has it."""
    has = bench.model.has
    found: Row = {}
    for name, last in rounds.items():
        for number in range(1, last + 1):
            found[f"{name} {number}"] = entry = {}
            rows = read_rows(bench.run(name).round(number).pairs)
            for lang in LANGUAGES:
                sides = [(has(r["chosen"]), has(r["rejected"])) for r in rows if r["lang"] == lang]
                right, wrong = sides.count((True, False)), sides.count((False, True))
                entry[lang] = {"pairs": len(sides), "right": right, "wrong": wrong}
    return found


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines)


def plot(path: Path, auc: Row, found: Row, names: Sequence[str], rounds: dict[str, int]) -> None:
    """Left: AUC per language and reward. Right: the property's rate over the target languages, round by round."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for n, name in enumerate([*names, "length"]):
        _dots(left, [auc[lang][name]["all"] for lang in LANGUAGES], (n, len(names) + 1), 0.8, fmt="o", label=name)
    left.axhline(0.5, color="grey", linewidth=0.8)
    left.set(title="AUC of the reward for the property, round 1", ylim=(0, 1.02))
    left.set_xticks(range(len(LANGUAGES)), LANGUAGES)
    for n, (name, last) in enumerate(rounds.items()):
        models = ["reference", "aligned", *(f"{name} {number}" for number in range(1, last + 1))]
        rates = [found["levels"][model]["property"]["targets"] for model in models]
        _dots(right, rates, (n, len(rounds)), 0.3, fmt="o-", label=name)
    right.set(title="share of answers with the property, target languages", ylim=(0, 1.02))
    steps = ["π_I", "π_θ⁰", *(f"round {number}" for number in range(1, max(rounds.values()) + 1))]
    right.set_xticks(range(len(steps)), steps)
    for axes, corner in ((left, "lower left"), (right, "lower right")):
        axes.legend(fontsize=7, frameon=False, loc=corner)
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(path) as tmp:
        figure.savefig(tmp, format=path.suffix[1:], dpi=150)
    plt.close(figure)


def _dots(axes: Any, estimates: Sequence[Estimate], place: tuple[int, int], width: float, **style: Any) -> None:
    """A series, number `place[0]` of `place[1]`, which share a width around each tick."""
    n, of = place
    x = np.arange(len(estimates)) + (n - (of - 1) / 2) * width / of
    values = np.array([e.value for e in estimates])
    bars = [[e.value - e.low for e in estimates], [e.high - e.value for e in estimates]]
    axes.errorbar(x, values, yerr=bars, markersize=4, linewidth=1, color=f"C{n}", **style)


def _key(row: Row) -> tuple[str, int]:
    return row["prompt_id"], row["sample"]


def runs_of(rounds: int, names: Sequence[str]) -> dict[str, int]:
    """run → rounds; ABLATIONS stay at one, for they answer a question about pairs."""
    return {name: min(rounds, 1) if name in ABLATIONS else rounds for name in RUNS if name in names}
