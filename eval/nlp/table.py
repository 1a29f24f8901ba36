"""The alignment tax: what the NLP tasks gain or lose from the first model to the others, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from eval.clusters import SINGLE, Part, estimate
from eval.nlp.average import Items, average, averaged_items, read_items
from eval.nlp.result import Measure, TaskRecord
from eval.nlp.run import NlpSummary, items_path, read_summary
from icr.base.errors import UserError

AVERAGE = "average"
COMPARABLE: tuple[Literal["metric", "few_shot", "version"], ...] = ("metric", "few_shot", "version")
"""Records are compared only where all of these are alike."""


class TaxRow(Measure):
    """A benchmark in one language, or over its languages, by one model."""

    benchmark: str
    language: str | None
    """None for a task of no language; AVERAGE for the mean over those that every folder has."""
    label: str
    """Of the folder."""
    task: str | None
    metric: str | None
    n: int
    few_shot: int | None
    change: float | None
    """The value minus that of the first folder."""
    change_se: float | None
    paired: bool | None
    """Its error is that of the differences of the same items; else both errors count as independent, usually too
    much."""
    why: str | None
    """The reason for an empty change or error."""


Tasks = Mapping[str, Mapping[tuple[str, str], TaskRecord]]
"""Label of a folder → (benchmark, task) → what was measured."""


def nlp_table(folders: Mapping[str, Path]) -> list[TaxRow]:
    """Rounds, or any models, side by side: a row per benchmark, language and folder, then the average of its languages.

    Args:
        folders: label → evaluation folder that `eval.nlp.run.run_nlp` has filled. Changes are from the first one.

    Raises:
        UserError: a folder without a summary.
    """
    summaries = {label: _read(folder) for label, folder in folders.items()}
    tasks = {label: {(t["benchmark"], t["task"]): t for t in s["tasks"]} for label, s in summaries.items()}
    base = next(iter(folders))
    order = list(dict.fromkeys(key for of in tasks.values() for key in of))
    rows: list[TaxRow] = []
    for benchmark in dict.fromkeys(name for name, _ in order):
        keys = [key for key in order if key[0] == benchmark]
        shown: dict[str, list[TaxRow]] = {label: [] for label in folders}
        for key in keys:
            for label in folders:
                if key in tasks[label]:
                    row = _row(label, base, key, tasks, folders)
                    rows.append(row)
                    if all(key in of for of in tasks.values()):
                        shown[label].append(row)
        if len(keys) > 1:
            rows += [_average_row(label, base, of, folders) for label, of in shown.items() if of]
    return rows


def _read(folder: Path) -> NlpSummary:
    summary = read_summary(folder)
    if summary is None:
        raise UserError("no NLP results found", where=str(folder), do="run icr judge nlp with this folder as --out")
    return summary


def _row(label: str, base: str, key: tuple[str, str], tasks: Tasks, folders: Mapping[str, Path]) -> TaxRow:
    task = tasks[label][key]
    row: TaxRow = {
        "benchmark": task["benchmark"],
        "language": task["language"],
        "task": task["task"],
        "metric": task["metric"],
        "n": task["n"],
        "few_shot": task["few_shot"],
        "value": task["value"],
        "se": task["se"],
        "label": label,
        "change": None,
        "change_se": None,
        "paired": None,
        "why": None,
    }
    before = tasks[base].get(key)
    if label == base:
        return row
    if before is None:
        return row | {"why": f"not measured in {base}"}
    unlike = next((name for name in COMPARABLE if task[name] != before[name]), None)
    if unlike:
        return row | {"why": f"measured differently in {base}: {unlike} {before[unlike]}, here {task[unlike]}"}
    changes = paired_changes(_items(folders[base], before), _items(folders[label], task))
    if changes:
        found = estimate([Part.of({str(item): value for item, value in changes.items()})])
        change, error = found.value, found.se
    else:
        change, error = task["value"] - before["value"], independent_error(before["se"], task["se"])
    return row | {"change": change, "change_se": error, "paired": bool(changes), "why": _no_error(error)}


def _items(folder: Path, task: TaskRecord | TaxRow) -> Items:
    path = items_path(folder, task["task"] or "")
    return averaged_items(path, task["metric"] or "", task["value"])


def _no_error(error: float | None) -> str | None:
    return SINGLE if error is None else None


def _average_row(label: str, base: str, rows: Sequence[TaxRow], folders: Mapping[str, Path]) -> TaxRow:
    metrics, shots = {r["metric"] for r in rows}, {r["few_shot"] for r in rows}
    row: TaxRow = {
        "benchmark": rows[0]["benchmark"],
        "language": AVERAGE,
        "label": label,
        "task": None,
        "metric": metrics.pop() if len(metrics) == 1 else None,
        "n": sum(r["n"] for r in rows),
        "few_shot": shots.pop() if len(shots) == 1 else None,
        **average(rows, [_items(folders[label], r) for r in rows]),
        "change": None,
        "change_se": None,
        "paired": None,
        "why": None,
    }
    if label == base:
        return row
    missing = next((r for r in rows if r["change"] is None), None)
    if missing:
        return row | {"why": f"no change in {missing['language'] or missing['task']}: {missing['why']}"}
    measures: list[Measure] = [{"value": r["change"], "se": r["change_se"]} for r in rows if r["change"] is not None]
    changes = [_changes(folders[base], folders[label], r) for r in rows]
    change = average(measures, changes)
    return row | {
        "change": change["value"],
        "change_se": change["se"],
        "paired": all(r["paired"] for r in rows),
        "why": _no_error(change["se"]),
    }


def _changes(before: Path, after: Path, row: TaxRow) -> Items:
    """A task's change by item; {} where the change is not over the same items."""
    if not row["paired"]:
        return {}
    path, metric = items_path(before, row["task"] or ""), row["metric"] or ""
    return paired_changes(read_items(path, metric), _items(after, row))


def paired_changes(before: Items, after: Items) -> Items:
    """After minus before of each item; {} where the two are not of the same items, or of none."""
    return {item: after[item] - before[item] for item in before} if before.keys() == after.keys() else {}


def independent_error(before: float | None, after: float | None) -> float | None:
    """Standard error of a difference whose two sides have nothing to do with each other."""
    return None if before is None or after is None else math.hypot(before, after)
