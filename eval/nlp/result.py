"""What lm-eval returns for a task, as our record of it and a row per item."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import SupportsFloat, TypedDict, TypeGuard

from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.rows import make_schema


class Item(TypedDict):
    """The value of one item of a task: nlp/TASK.parquet."""

    item: int
    """Its number in the task."""
    doc_hash: str
    """Of its content, by lm-eval."""
    metric: str
    value: float


ITEMS = make_schema(Item)


class Measure(TypedDict):
    """A value with its standard error, which is None where there is none."""

    value: float
    se: float | None


class TaskResult(Measure):
    """What lm-eval says of a task; the value is of its first metric."""

    task: str
    metric: str
    n: int
    """Items that were measured."""
    of: int
    """Items that the task has."""
    few_shot: int
    version: float | str
    higher_is_better: bool | None
    metrics: dict[str, Measure]


class TaskRecord(TaskResult):
    """What is kept of a task: nlp/TASK.json, there with a fingerprint of the terms."""

    benchmark: str
    language: str | None
    """None: of a task without one."""
    too_long: int
    """Texts that were longer than the model's context."""
    seconds: float
    backend: str
    dtype: str


FIRST_METRIC = "acc"
"""Shown where a task has it; else its first."""


def read_result(result: Fields, task: str) -> tuple[TaskResult, list[Item]]:
    """What is said of a task, and its items.

    Args:
        result: what `lm_eval.evaluate` returns, with samples.

    Raises:
        UserError: the task has no metric.
    """
    metrics = _metrics(result["results"][task])
    if not metrics:
        raise UserError("the task has no metric", where=f"task {task}", do="add a metric_list to its file")
    first = FIRST_METRIC if FIRST_METRIC in metrics else next(iter(metrics))
    row: TaskResult = {
        "task": task,
        "metric": first,
        **metrics[first],
        "n": result["n-samples"][task]["effective"],
        "of": result["n-samples"][task]["original"],
        "few_shot": result["n-shot"][task],
        "version": result["versions"][task],
        "higher_is_better": result["higher_is_better"][task].get(first.partition(",")[0]),
        "metrics": metrics,
    }
    return row, _items(result["samples"][task])


def _metrics(result: Mapping[str, object]) -> dict[str, Measure]:
    """{metric: {value, se}} out of lm-eval's "acc,none" and "acc_stderr,none"."""
    metrics: dict[str, Measure] = {}
    for key, value in result.items():
        metric, comma, filtered = key.partition(",")
        if not comma or metric.endswith("_stderr") or not _number(value):
            continue
        error = result.get(f"{metric}_stderr,{filtered}")
        metrics[_metric(metric, filtered)] = {"value": float(value), "se": float(error) if _number(error) else None}
    return metrics


def _metric(metric: str, filtered: str) -> str:
    """Most tasks have no filter, which lm-eval calls none."""
    return metric if filtered == "none" else f"{metric},{filtered}"


def _number(value: object) -> TypeGuard[float]:
    """lm-eval writes N/A where there is no error, and NumPy's numbers elsewhere."""
    try:
        return not isinstance(value, str) and isinstance(value, SupportsFloat) and math.isfinite(value)
    except TypeError:
        return False


def _items(samples: Sequence[Fields]) -> list[Item]:
    """Every item's value of every metric that has one number an item."""
    return [
        {
            "item": sample["doc_id"],
            "doc_hash": sample["doc_hash"],
            "metric": _metric(metric, sample["filter"]),
            "value": float(sample[metric]),
        }
        for sample in samples
        for metric in sample["metrics"]
        if _number(sample[metric])
    ]
