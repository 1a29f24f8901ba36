"""Worker task: hidden states and embedding norms of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from icr.base.progress import Reporter
from icr.engines.body import Place
from icr.work.pool import Task
from icr.work.resident import Resident

TEXT = pa.schema([("text", pa.string())])
REPRESENTED = pa.schema([("layers", pa.int32()), ("states", pa.list_(pa.float32())), ("norms", pa.list_(pa.float32()))])
"""`states`: of all layers, one after the other. Both lists are empty where the text is longer than the model reads."""


class RepresentTask(Task):
    """In: TEXT. Out: REPRESENTED."""

    name: ClassVar[str] = "represent"
    lane: ClassVar[str] = "scorer"

    model: str
    place: Place
    batch_tokens: int


def represent(state: Resident, task: RepresentTask, table: pa.Table, reporter: Reporter) -> pa.Table:
    body = state.body(task.model, task.batch_tokens)
    found = body.represent(table["text"].to_pylist(), task.place, reporter)
    columns = {
        "layers": pa.array([0 if one is None else len(one.states) for one in found], pa.int32()),
        "states": _lists([_NONE if one is None else np.concatenate(one.states) for one in found]),
        "norms": _lists([_NONE if one is None else one.norms for one in found]),
    }
    return pa.table(columns, schema=REPRESENTED)


_NONE = np.zeros(0, dtype=np.float32)


def _lists(rows: Sequence[NDArray[np.float32]]) -> pa.Array:
    """Rows of numbers without a Python object for each."""
    ends = np.cumsum([0, *map(len, rows)])
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(np.concatenate([_NONE, *rows])))
