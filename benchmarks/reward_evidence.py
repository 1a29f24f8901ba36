"""Do reward models carry over to other languages? Planted preferences, whose truth is known, and people's answers.

    python -m benchmarks.reward_evidence --seahorse FOLDER [--work runs/reward-evidence] [--parts planted labels …]

Reward models on multilingual-e5-small: (planted) pairs of a good text and the same text with something done wrong to
it, in six languages; (labels) people's answers to Seahorse's question 6, whose files have to be there. Each model is
trained in one language and measured in all; (look) how far each is from its base. (layout) A decoder that learned a
preference from English pairs, and answers in other languages that are chosen by it or trained on it. Killed, the same
command goes on. docs/reward-evidence.md has the figures.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.reward_evidence_layout import Layout, LayoutSize, layout_tables
from benchmarks.reward_evidence_results import (
    above_length,
    by_kind,
    curve_table,
    look_table,
    matrix_table,
    mean_auc,
    mean_tau,
    measure_others,
    orders,
    plot,
    put_into,
    read_matrix,
)
from benchmarks.reward_evidence_runs import LANGUAGES, Evidence, Size
from icr.base.errors import UserError
from icr.base.files import write_json, write_text

FULL = Size(texts=240, heldout=60, curve=(30, 60, 120), ratings=600, epochs=3, seeds=(1, 2))
QUICK = Size(texts=16, heldout=20, curve=(8,), ratings=32, epochs=1, seeds=(1,))
FULL_LAYOUT = LayoutSize(pairs=100, prompts=12, n=16, steps=12, every=4)
QUICK_LAYOUT = LayoutSize(pairs=16, prompts=6, n=4, steps=2, every=1, max_tokens=16)
PARTS = ("planted", "labels", "look", "layout")


def main() -> None:
    parser = argparse.ArgumentParser(description="how far reward models carry over to other languages")
    parser.add_argument("--seahorse", type=Path, help="a folder of Seahorse's validation.LANG.tsv; layout needs none")
    parser.add_argument("--work", type=Path, default=Path("runs/reward-evidence"), help="the work folder")
    parser.add_argument("--quick", action="store_true", help="few rows: whether it runs, not what it shows")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to do")
    parser.add_argument(
        "--page", type=Path, help="put labels, look and layout into this page (docs/reward-evidence.md)"
    )
    parser.add_argument("--seeds", nargs="+", type=int, help="of the trainings on people's answers; default: 1 2")
    asked = parser.parse_args()
    if asked.seahorse is None and set(asked.parts) != {"layout"}:
        parser.error("--seahorse is missing")
    size = QUICK if asked.quick else FULL
    size = replace(size, seeds=tuple(asked.seeds or size.seeds))
    evidence = Evidence(asked.work.resolve(), asked.seahorse, size)
    started = time.monotonic()
    if set(asked.parts) != {"layout"}:
        evidence.prepare()
    parts: list[str] = []
    tables: dict[str, list[str]] = {}
    figures: dict[str, Any] = {"size": vars(evidence.size)}
    values: dict[str, Any] = {"planted": None, "labels": None}
    if "planted" in asked.parts:
        values["planted"], text = run_planted(evidence, figures)
        parts += text
    if "labels" in asked.parts:
        values["labels"], tables["labels"] = run_labels(evidence, figures)
        parts += ["## People's answers: AUC", *tables["labels"]]
    if values["planted"] is not None and values["labels"] is not None:
        tau = mean_tau(values["labels"], values["planted"])
        parts.append(f"Kendall's τ of the two matrices, mean over targets: {tau:.2f}")
    if "look" in asked.parts:
        tables["look"] = run_look(evidence, figures)
        parts += ["## How far from the base", *tables["look"]]
    if "layout" in asked.parts:
        tables["layout"] = run_layout(evidence.work / "layout", QUICK_LAYOUT if asked.quick else FULL_LAYOUT, figures)
        parts += ["## Layout", *tables["layout"]]
    write_json(evidence.work / "evidence.json", figures)
    if any(values.values()):
        plot(evidence.work / "evidence.svg", values["planted"], values["labels"])
    write_text(evidence.work / "evidence.md", "\n\n".join(parts) + "\n")
    if asked.page is not None:
        put_into(asked.page, tables)
    print("\n\n".join(parts))
    print(f"\n{time.monotonic() - started:.0f} s in this call; figures: {evidence.work}/evidence.json, .md, .svg")


def run_planted(evidence: Evidence, figures: dict[str, Any]) -> tuple[Any, list[str]]:
    """The matrix of accuracies, and its tables."""
    evidence.transfer("planted")
    evidence.train("control", "control", None)
    for count in evidence.size.curve:
        evidence.train(f"pairs-{count}", "planted", count)
    found, models = read_matrix(evidence, "planted"), measure_others(evidence)
    above = above_length(found["cells"])
    figures["planted"] = {
        "cells": found["cells"],
        "targets": found["targets"],
        "above_length": above,
        "english": {name: {lang: of.figures for lang, of in measured.items()} for name, measured in models.items()},
    }
    values = [[_value(found, source, target, "accuracy") for target in LANGUAGES] for source in LANGUAGES]
    return values, [
        "## Planted preference: accuracy in percent",
        matrix_table(found["cells"], "accuracy", 1, {"length alone": "length"}),
        orders(values),
        "above length alone with the whole interval, in other languages: "
        + "; ".join(f"{source}: {', '.join(targets) or 'none'}" for source, targets in above.items()),
        "### By what is wrong",
        by_kind(evidence, models),
        "### By the number of pairs",
        curve_table(evidence, models),
    ]


def run_labels(evidence: Evidence, figures: dict[str, Any]) -> tuple[Any, list[str]]:
    """The matrix of AUCs, the mean over seeds, and its tables."""
    names = [f"labels-{seed}" for seed in evidence.size.seeds]
    for name in names:
        evidence.transfer(name)
    found = [read_matrix(evidence, name) for name in names]
    figures["labels"] = {
        name: {"cells": one["cells"], "targets": one["targets"]} for name, one in zip(names, found, strict=True)
    }
    values = mean_auc(found)
    beside = {"majority": "majority", "length alone": "length", "people with each other": "human_agreement"}
    parts = []
    for name, one in zip(names, found, strict=True):
        parts += [f"### AUC, {name}", matrix_table(one["cells"], "auc", 2, {"length alone": "length_auc"})]
        parts += [f"### Accuracy in percent, {name}", matrix_table(one["cells"], "accuracy", 1, beside)]
    parts += ["### Ranks by the mean AUC", orders(values)]
    for name, one in zip(names[1:], found[1:], strict=True):
        tau = mean_tau(mean_auc([found[0]]), mean_auc([one]))
        parts.append(f"Kendall's τ between {names[0]} and {name}, mean over targets: {tau:.2f}")
    return values, parts


def run_look(evidence: Evidence, figures: dict[str, Any]) -> list[str]:
    """How far the models of each experiment are from their base: a table each."""
    figures["look"] = evidence.look()
    return [text for name, found in figures["look"].items() for text in (f"### {name}", look_table(found))]


def run_layout(folder: Path, size: LayoutSize, figures: dict[str, Any]) -> list[str]:
    """Best of n and RLOO under a model that learned a layout from English pairs, and their tables."""
    layout = Layout(folder, size)
    layout.run()
    figures["layout"], tables = layout_tables(layout)
    return tables


def _value(found: dict[str, Any], source: str, target: str, name: str) -> float:
    wanted = (source, target)
    cell = next(cell for cell in found["cells"] if (cell["source"], cell["target"]) == wanted)
    return float("nan") if cell[name] is None else float(cell[name])


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
