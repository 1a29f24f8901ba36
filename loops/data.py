"""The training's data file, and the order in which its rows are trained on, laid out before the training starts.

Every optimiser step trains on `batch_rows` rows, whatever the split into processes, micro-batches and accumulation:
passes over the data are shuffled one by one and joined, so that a batch may run from one pass into the next, and only
the very last batch may be smaller. That one is filled up to whole micro-batches with rows of weight 0, and its real
rows weigh correspondingly more, so that the mean over the rows stays the mean over the real ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from icr.base.errors import UserError
from icr.base.files import write_rows

IDS = pa.list_(pa.int32())
TYPES = {
    "prompt_ids": IDS,
    "chosen_ids": IDS,
    "rejected_ids": IDS,
    "completion_ids": IDS,
    "KL_completion_ids": IDS,
    "label": pa.bool_(),
    "ref_chosen_logps": pa.float64(),
    "ref_rejected_logps": pa.float64(),
    "ref_logps": pa.float64(),
    "ref_KL_logps": pa.float64(),
}
ANSWERS = ("chosen_ids", "rejected_ids", "completion_ids", "KL_completion_ids")


def write_training_data(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows of `Objective.dataset` as the data file of a `TrainSpec`. Raises UserError for none."""
    if not rows:
        raise UserError("there is no pair to train on", where=str(path), do="see the pair stage's counts for why")
    write_rows(path, list(rows), pa.schema([(name, TYPES[name]) for name in rows[0]]))


@dataclass(frozen=True)
class Schedule:
    """The rows in training order, and what follows from it."""

    table: pa.Table
    """The columns of the data file and `weight`."""
    rows: int
    """Different rows, those dropped not counted."""
    dropped_too_long: int
    """Rows with a sequence longer than the model's context."""
    steps: int
    accumulation: int
    """Micro-batches per process and optimiser step."""
    epochs: list[float]
    """Passes over the data after 0, 1, … steps."""
    tokens: list[int]
    """Tokens that have gone through the model after 0, 1, … steps."""


def lay_out(
    path: Path, *, context: int, epochs: float, batch_rows: int, micro_rows: int, processes: int, seed: int
) -> Schedule:
    """Read the data file and put its rows in training order.

    Raises UserError when no row fits into `context` tokens, and when `batch_rows` is not a multiple of
    `micro_rows · processes`.
    """
    accumulation, left = divmod(batch_rows, micro_rows * processes)
    if left or not accumulation:
        raise UserError(
            f"a batch of {batch_rows} rows cannot be split into micro-batches of {micro_rows} on {processes} processes",
            where="train.batch_size, train.micro_batch_size, train.processes",
            do=f"make the batch a multiple of {micro_rows * processes} rows (KTO makes two rows of a pair)",
        )
    table = pq.read_table(path)
    longest, _ = _lengths(table)
    fits = table.filter(pa.array(longest <= context))
    if not fits.num_rows:
        raise UserError(
            f"none of the {table.num_rows} training rows fits into the model's context of {context} tokens",
            where=str(path),
            do="train a model with a longer context, or lower sampling.max_tokens",
        )
    order = _order(fits.num_rows, epochs, seed)
    steps = math.ceil(len(order) / batch_rows)
    last = len(order) - (steps - 1) * batch_rows
    padded = math.ceil(last / (micro_rows * processes)) * micro_rows * processes
    weights = np.ones(len(order) + padded - last)
    weights[len(order) - last : len(order)] = padded / last
    weights[len(order) :] = 0.0
    longest, tokens = _lengths(fits)
    order = np.concatenate([order, np.full(padded - last, int(np.argmin(longest)))])
    passed = np.concatenate([[0], np.cumsum(tokens[order])])
    trained = [min(step * batch_rows, len(order) - (padded - last)) for step in range(steps + 1)]
    return Schedule(
        table=fits.take(pa.array(order)).append_column("weight", pa.array(weights)),
        rows=fits.num_rows,
        dropped_too_long=table.num_rows - fits.num_rows,
        steps=steps,
        accumulation=accumulation,
        epochs=[rows / fits.num_rows for rows in trained],
        tokens=[int(passed[min(step * batch_rows, len(order))]) for step in range(steps + 1)],
    )


def _order(rows: int, epochs: float, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Row numbers of ⌈epochs⌉ passes, each shuffled for itself; a fractional last pass is cut short."""
    passes = [np.random.default_rng([seed, number]).permutation(rows) for number in range(math.ceil(epochs))]
    return np.concatenate(passes)[: max(1, round(epochs * rows))]


def _lengths(table: pa.Table) -> tuple[Any, Any]:
    """Per row the tokens of its longest sequence, and the tokens of all its sequences, the prompt in each."""
    prompt = pc.list_value_length(table["prompt_ids"]).to_numpy()
    answers = [pc.list_value_length(table[name]).to_numpy() for name in ANSWERS if name in table.column_names]
    sequences = np.stack([prompt + answer for answer in answers])
    return sequences.max(axis=0), sequences.sum(axis=0)
