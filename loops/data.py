"""The training's data file, and the order in which its rows are trained on, laid out before the training starts.

Every optimiser step trains on `batch_rows` rows, whatever the split into processes, micro-batches and accumulation:
passes over the data are shuffled one by one and joined, so that a batch may run from one pass into the next, and only
the very last batch may be smaller. That one is filled up to whole micro-batches with rows of weight 0, and its real
rows weigh correspondingly more, so that the mean over the rows stays the mean over the real ones. Within a step rows
may go by length: its micro-batches then have less padding, and its mean is the same.

Rows for validation are held back by prompt: all rows of a prompt, in every language, are on the same side.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from icr.base.errors import UserError
from icr.base.files import write_rows
from icr.engines.precision import Numerics
from loops.batches import Row

PROMPT_COLUMNS = {"prompt_id": pa.string(), "prompt_ids": pa.list_(pa.int32())}


HELD = "held"
"""A column of truth values, where the caller has decided which rows are for validation."""
ANSWERED = "answered"
"""A column of truth values, where a validation looks at answers: which rows are answered."""
NUMERICS = "reference numerics"
"""Key of the file's metadata."""


def write_training_data(
    path: Path,
    rows: Sequence[Mapping[str, object]],
    columns: Mapping[str, pa.DataType],
    numerics: Numerics | None = None,
) -> None:
    """Write the rows of `Objective.dataset` as the data file of a `TrainSpec`.

    Args:
        columns: those of the objective's family.
        numerics: by which the reference was scored.

    Raises:
        UserError: there are no rows.
    """
    if not rows:
        raise UserError(
            "no pairs to train on", where=str(path), do="look at the counts of the stage pair in the round's round.json"
        )
    types = {**PROMPT_COLUMNS, HELD: pa.bool_(), ANSWERED: pa.bool_(), **columns}
    schema = pa.schema([(name, types[name]) for name in rows[0]])
    write_rows(path, list(rows), schema.with_metadata({NUMERICS: numerics}) if numerics else schema)


def reference_numerics(path: Path) -> str | None:
    """By which numerics the reference log-probs of a data file were computed; None where it does not say."""
    found = (pq.read_schema(path).metadata or {}).get(NUMERICS.encode())
    return None if found is None else found.decode()


class Rows:
    """A table as the sequence of dicts that a data loader wants."""

    def __init__(self, table: pa.Table) -> None:
        self._columns = {name: table[name].combine_chunks() for name in table.column_names}
        self._count = int(table.num_rows)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Row:
        return {name: values[number].as_py() for name, values in self._columns.items()}


@dataclass(frozen=True)
class Split:
    """How an optimiser step is cut up."""

    batch_rows: int
    micro_rows: int
    processes: int

    @property
    def at_once(self) -> int:
        """Rows that all processes together take in one forward pass."""
        return self.micro_rows * self.processes

    def accumulation(self) -> int:
        """Micro-batches per process and step. Raises UserError when the batch is not a whole number of them."""
        accumulation, left = divmod(self.batch_rows, self.at_once)
        if left or not accumulation:
            raise UserError(
                f"a batch of {self.batch_rows} rows cannot be split into micro-batches of {self.micro_rows} on "
                f"{self.processes} processes",
                where="train.batch_size, train.micro_batch_size, train.processes",
                do=f"make the batch a multiple of {self.at_once} rows (KTO makes two rows of a pair)",
            )
        return accumulation


@dataclass(frozen=True)
class Schedule:
    """The rows in training order, and what follows from it."""

    table: pa.Table
    """The columns of the data file and `weight`."""
    rows: int
    """Different rows that are trained on."""
    dropped_too_long: int
    """Rows with a sequence longer than the model's context."""
    steps: int
    accumulation: int
    """Micro-batches per process and optimiser step."""
    epochs: list[float]
    """Passes over the data after 0, 1, … steps."""
    tokens: list[int]
    """Tokens that have gone through the model after 0, 1, … steps."""
    validation: pa.Table | None
    """The rows held back, filled up to whole micro-batches with rows of weight 0; None where there are none."""
    validation_rows: int
    """Different rows held back."""

    def trained_rows(self) -> pa.Table:
        """Every row that is trained on once, in no particular order."""
        real = self.table.filter(pc.greater(self.table["weight"], 0.0))
        _, first = np.unique(real["number"].to_numpy(), return_index=True)
        return real.take(pa.array(first))


def lay_out(
    path: Path,
    *,
    answers: Sequence[str],
    context: int,
    epochs: float,
    split: Split,
    seed: int,
    validation: float = 0,
    by_length: bool = False,
) -> Schedule:
    """Read the data file and put its rows in training order.

    Args:
        answers: the columns of token ids that follow the prompt, see `Family.answers`.
        context: tokens that the model can take.
        validation: rows to hold back: a share below 1, or a number. A column HELD of the data goes before it.
        by_length: see `Family.by_length`.

    Raises:
        UserError: no row fits into `context` tokens, none is left to train on or none to validate, or the batch cannot
            be split.
    """
    accumulation = split.accumulation()
    table = pq.read_table(path)
    longest, _ = _lengths(table, answers)
    fits = table.filter(pa.array(longest <= context))
    if not fits.num_rows:
        raise UserError(
            f"none of the {table.num_rows} training rows fits into the model's context of {context} tokens",
            where=str(path),
            do="train a model with a longer context, or lower sampling.max_tokens",
        )
    held = fits[HELD].to_numpy() if HELD in fits.column_names else hold_back(fits, validation, seed)
    kept = fits.filter(pa.array(~held))
    kept = kept.append_column("number", pa.array(np.arange(kept.num_rows)))
    longest, tokens = _lengths(kept, answers)
    order = order_passes(kept.num_rows, epochs, seed)
    real = len(order)
    steps = math.ceil(real / split.batch_rows)
    last = real - (steps - 1) * split.batch_rows
    filling = -last % split.at_once
    weights = np.concatenate([np.ones(real), np.zeros(filling)])
    weights[real - last : real] = (last + filling) / last
    order = np.concatenate([order, np.full(filling, int(np.argmin(longest)))])
    for_validation = fits.filter(pa.array(held))
    if by_length:
        ranked = longest_first(longest[order], split.batch_rows)
        order, weights = order[ranked], weights[ranked]
        for_validation = for_validation.take(
            pa.array(longest_first(_lengths(for_validation, answers)[0], for_validation.num_rows))
        )
    passed = np.concatenate([[0], np.cumsum(tokens[order])])
    return Schedule(
        table=kept.take(pa.array(order)).append_column("weight", pa.array(weights)),
        rows=kept.num_rows,
        dropped_too_long=table.num_rows - fits.num_rows,
        steps=steps,
        accumulation=accumulation,
        epochs=[min(step * split.batch_rows, real) / kept.num_rows for step in range(steps + 1)],
        tokens=[int(passed[min(step * split.batch_rows, len(order))]) for step in range(steps + 1)],
        validation=_filled(for_validation, split.at_once) if held.any() else None,
        validation_rows=int(held.sum()),
    )


def longest_row(path: Path, answers: Sequence[str], context: int) -> int:
    """Tokens of the longest sequence in the data file that fits into `context` tokens; at least 1.

    Args:
        answers: as in `lay_out`.
    """
    longest, _ = _lengths(pq.read_table(path), answers)
    return int(max(longest[longest <= context], default=1))


def hold_back(table: pa.Table, validation: float, seed: int) -> NDArray[np.bool_]:
    """Which rows are for validation: all rows of randomly drawn prompts, until there are as many as asked for.

    Args:
        validation: a share of the rows below 1, or a number of rows; more are held back where a prompt has several.

    Raises:
        UserError: no row would be left to train on.
    """
    if not validation:
        return np.zeros(table.num_rows, dtype=bool)
    wanted = max(1, round(validation * table.num_rows)) if validation < 1 else int(validation)
    name = "prompt_id" if "prompt_id" in table.column_names else "prompt_ids"
    prompts = [str(prompt) for prompt in table[name].to_pylist()]
    rows = Counter(prompts)
    names = sorted(rows)
    held: set[str] = set()
    count = 0
    for number in np.random.default_rng([seed, *b"validation"]).permutation(len(names)):
        if count >= wanted:
            break
        held.add(names[number])
        count += rows[names[number]]
    if len(held) == len(names):
        raise UserError(
            f"{wanted} of {table.num_rows} rows for validation leave none to train on",
            where="train.validation",
            do=f"lower it: the rows have {len(names)} different prompt(s), and all rows of a prompt stay together",
        )
    return np.array([prompt in held for prompt in prompts])


def _filled(table: pa.Table, multiple: int) -> pa.Table:
    """The rows with weight 1, and copies of the first with weight 0 up to a multiple."""
    filling = -table.num_rows % multiple
    order = np.concatenate([np.arange(table.num_rows), np.zeros(filling, dtype=np.int64)])
    weights = np.concatenate([np.ones(table.num_rows), np.zeros(filling)])
    return table.take(pa.array(order)).append_column("weight", pa.array(weights))


def order_passes(rows: int, epochs: float, seed: int) -> NDArray[np.int64]:
    """Row numbers of ⌈epochs⌉ passes, each shuffled for itself; a fractional last pass is cut short."""
    passes = [np.random.default_rng([seed, number]).permutation(rows) for number in range(math.ceil(epochs))]
    return np.concatenate(passes)[: max(1, round(epochs * rows))]


def longest_first(lengths: NDArray[np.int64], batch_rows: int) -> NDArray[np.int64]:
    """Places in training order such that the rows of every `batch_rows` go by their length, the longest first: a step
    that does not fit into the memory fails at its beginning."""
    steps = np.arange(len(lengths)) // max(1, batch_rows)
    order: NDArray[np.int64] = np.lexsort((-lengths, steps))
    return order


def _lengths(table: pa.Table, answers: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Per row the tokens of its longest sequence, and the tokens of all its sequences, the prompt in each."""
    prompt = pc.list_value_length(table["prompt_ids"]).to_numpy()
    sequences = np.stack([prompt + pc.list_value_length(table[name]).to_numpy() for name in answers] or [prompt])
    return sequences.max(axis=0), sequences.sum(axis=0)
