"""What lm-eval returns for a task, as our record of it and a row per item."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import pyarrow as pa

from icr.base.errors import UserError

Row = dict[str, Any]

ITEMS = pa.schema(
    [
        ("item", pa.int32()),  # its number in the task
        ("doc_hash", pa.string()),  # of its content, by lm-eval
        ("metric", pa.string()),
        ("value", pa.float64()),
    ]
)
FIRST_METRIC = "acc"
"""Shown where a task has it; else its first."""


def read_result(result: Mapping[str, Any], task: str) -> tuple[Row, list[Row]]:
    """The record of a task, and rows of ITEMS.

    Args:
        result: what `lm_eval.evaluate` returns, with samples.

    Raises:
        UserError: the task has no metric.
    """
    metrics = _metrics(result["results"][task])
    if not metrics:
        raise UserError("the task has no metric", where=f"task {task}", do="add a metric_list to its file")
    first = FIRST_METRIC if FIRST_METRIC in metrics else next(iter(metrics))
    row = {
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


def _metrics(result: Mapping[str, Any]) -> dict[str, Row]:
    """{metric: {value, se}} out of lm-eval's "acc,none" and "acc_stderr,none"."""
    metrics = {}
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


def _number(value: Any) -> TypeGuard[float]:
    """lm-eval writes N/A where there is no error, and NumPy's numbers elsewhere."""
    try:
        return not isinstance(value, str) and math.isfinite(value)
    except TypeError:
        return False


def _items(samples: Sequence[Mapping[str, Any]]) -> list[Row]:
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


def average(values: Sequence[tuple[float, float | None]]) -> Row:
    """The mean of (value, standard error) over languages: {"value", "se"}.

    The languages count as independent. Their items are translations of one another, so the true error may be larger,
    at most the mean of the errors.
    """
    errors = [error for _, error in values if error is not None]
    return {
        "value": sum(value for value, _ in values) / len(values),
        "se": math.sqrt(sum(e**2 for e in errors)) / len(values) if len(errors) == len(values) else None,
    }
