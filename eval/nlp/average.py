"""Means of an NLP benchmark over its languages, with errors that know that the items are translations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from eval.clusters import Part, estimate
from eval.nlp.result import Measure

Items = dict[tuple[int, str], float]
"""(number, hash) of an item → its value."""


def read_items(path: Path, metric: str) -> Items:
    """Every item's value of a task; {} for a metric that has no value an item, and where there is no file."""
    if not path.is_file():
        return {}
    columns = pq.read_table(path, filters=[("metric", "=", metric)]).to_pydict()
    return dict(zip(zip(columns["item"], columns["doc_hash"], strict=True), columns["value"], strict=True))


def averaged_items(path: Path, metric: str, value: float) -> Items:
    """The items of a task whose value is their mean; {} where it is something else, such as a perplexity."""
    found = read_items(path, metric)
    return found if found and math.isclose(sum(found.values()) / len(found), value, rel_tol=1e-9) else {}


def average(measures: Sequence[Measure], items: Sequence[Mapping[tuple[int, str], float]]) -> Measure:
    """The mean over languages.

    Where all languages have the same item numbers, an item and its translations are one draw (`eval.clusters`). Else
    the numbers do not say which items belong together, and the error is the most that it can be, the mean of the
    errors.

    Args:
        items: of each language, those whose mean its value is; {} where there are none.
    """
    numbered = [{str(number): value for (number, _), value in of.items()} for of in items]
    if numbered[0] and all(of.keys() == numbered[0].keys() for of in numbered):
        found = estimate([Part.of(of) for of in numbered])
        return {"value": found.value, "se": found.se}
    errors = [of["se"] for of in measures if of["se"] is not None]
    return {
        "value": sum(of["value"] for of in measures) / len(measures),
        "se": sum(errors) / len(errors) if len(errors) == len(measures) else None,
    }
