"""A benchmark that lm-eval cuts into subjects, in one language: one record over the items of all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from eval.clusters import Part, estimate
from eval.nlp.result import Item, Measure, TaskRecord


def pool(name: str, records: Sequence[TaskRecord], items: Sequence[Sequence[Item]]) -> tuple[TaskRecord, list[Item]]:
    """The subjects' records as one: every item counts alike, as in lm-eval's groups with `weight_by_size`.

    Item numbers go on from subject to subject.

    Args:
        name: of the group.
        records: of the subjects; all have the same metrics.
        items: of each subject.
    """
    first, moved, before = records[0], list[Item](), 0
    for record, of in zip(records, items, strict=True):
        moved += [{**item, "item": item["item"] + before} for item in of]
        before += record["of"]
    metrics = {metric: _pool(metric, records, moved) for metric in first["metrics"]}
    shots = {record["few_shot"] for record in records}
    whole: TaskRecord = {
        **first,
        "task": name,
        **metrics[first["metric"]],
        "metrics": metrics,
        "n": sum(record["n"] for record in records),
        "of": before,
        "few_shot": shots.pop() if len(shots) == 1 else first["few_shot"],
        "too_long": sum(record["too_long"] for record in records),
        "seconds": round(sum(record["seconds"] for record in records), 1),
    }
    return whole, moved


def _pool(metric: str, records: Sequence[TaskRecord], items: Sequence[Item]) -> Measure:
    """Σ n·v / Σ n, with the error of a mean of all items; where a metric has no items, that of independent subjects."""
    n = [record["n"] for record in records]
    of = [record["metrics"][metric] for record in records]
    value = sum(count * found["value"] for count, found in zip(n, of, strict=True)) / sum(n)
    values = {str(item["item"]): item["value"] for item in items if item["metric"] == metric}
    if len(values) == sum(n):
        return {"value": value, "se": estimate([Part.of(values)]).se}
    errors = [found["se"] for found in of]
    known = [count * se for count, se in zip(n, errors, strict=True) if se is not None]
    return {"value": value, "se": math.hypot(*known) / sum(n) if len(known) == len(n) else None}
