"""Reading what the length-controlled win rate is computed from: judged pairs, difficulties, gamed baselines' pairs.

Every problem is a `UserError` that names the file, the line (csv) or row (parquet), the column and what to do.
"""

from __future__ import annotations

import csv
import gzip
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from icr.base.errors import UserError

Floats = npt.NDArray[np.float64]
Cells = Mapping[str, str | float | None]
"""By column: texts from csv, what it holds from parquet."""
Row = tuple[str, Cells]
"""Its place ("pairs.csv:7"), and its cells."""

NUMBERS = ("preference", "len_model", "len_baseline")


@dataclass(frozen=True)
class JudgedPairs:
    """One model's judged pairs: equally long arrays, a row a pair.

    `preference` is of the model, 0…1, NaN where the judge gave no verdict (unscored); `len_model` and `len_baseline`
    are in characters; `index` names the instruction of each row (needed for difficulties only); `where` says for
    messages where each row was read.
    """

    preference: Floats
    len_model: Floats
    len_baseline: Floats
    index: tuple[str, ...] | None = None
    where: tuple[str, ...] | None = None
    model: str = "the model"

    def __post_init__(self) -> None:
        columns = (self.preference, self.len_model, self.len_baseline, self.index, self.where)
        if len({len(column) for column in columns if column is not None}) > 1:
            raise ValueError("the columns of judged pairs must be equally long")

    def scored(self) -> JudgedPairs:
        """The rows with a verdict."""
        keep = np.flatnonzero(~np.isnan(self.preference))
        index, where = (None if c is None else tuple(c[i] for i in keep) for c in (self.index, self.where))
        return JudgedPairs(
            self.preference[keep], self.len_model[keep], self.len_baseline[keep], index, where, self.model
        )


def read_judged_pairs(path: Path) -> JudgedPairs:
    """Judged pairs of one model from csv, csv.gz or parquet: preference, len_model, len_baseline and, if there, index.

    An empty preference is an unscored pair. Raises UserError for a missing column, a cell that is not a finite number,
    a preference outside 0…1, a negative length, an index that is empty or appears twice, no row, no
    verdict, several models.
    """
    rows = _read(path, NUMBERS)
    models = list(dict.fromkeys(str(cells["model"]) for _, cells in rows if cells.get("model") is not None))
    if len(models) > 1:
        shown = ", ".join(models[:3]) + (", …" if len(models) > 3 else "")
        raise UserError(
            f"the table has {len(models)} models ({shown}), but a win rate is for one model",
            where=f"{path}, column model",
            do="put each model's rows in its own table, and run once per model",
        )
    found = _pairs(rows, models[0] if models else "the model")
    if bool(np.all(np.isnan(found.preference))):
        do = "check why the judge scored no pair"
        raise UserError("no judged pair has a verdict, so the win rate is unknown", where=str(path), do=do)
    return found


def read_difficulty(path: Path) -> dict[str, float]:
    """Instruction difficulties by index from csv (or csv.gz, parquet) with the columns index and difficulty.

    Raises UserError as `read_judged_pairs` does.
    """
    rows = _read(path, ("index", "difficulty"))
    return dict(zip(_indices(rows), (_number(row, "difficulty") for row in rows), strict=True))


def read_gamed(path: Path) -> list[JudgedPairs]:
    """The gamed baselines' judged pairs, one table per value of the column `model`; `index` is required.

    Raises UserError as `read_judged_pairs` does, and for a row without a model or without a verdict.
    """
    models: dict[str, list[Row]] = {}
    for row in _read(path, ("model", "index", *NUMBERS)):
        for column in ("model", "preference"):
            if _is_empty(row[1][column]):
                raise _bad_cell(row, column, "is empty", "give every row of a gamed baseline a model and a preference")
        models.setdefault(str(row[1]["model"]), []).append(row)
    return [_pairs(rows, model) for model, rows in models.items()]


def _pairs(rows: Sequence[Row], model: str) -> JudgedPairs:
    preference = np.array([_preference(row) for row in rows])
    lengths = {
        column: np.array(
            [math.nan if math.isnan(p) else _length(row, column) for row, p in zip(rows, preference, strict=True)]
        )
        for column in ("len_model", "len_baseline")
    }
    index = _indices(rows) if "index" in rows[0][1] else None
    where = tuple(place for place, _ in rows)
    return JudgedPairs(preference, lengths["len_model"], lengths["len_baseline"], index, where, model)


def _preference(row: Row) -> float:
    """A preference of the model in 0…1, or NaN for an empty cell (unscored)."""
    if _is_empty(row[1]["preference"]):
        return math.nan
    value = _number(row, "preference")
    if not 0 <= value <= 1:
        do = "give the model's preference as 0 (baseline wins) … 1 (model wins)"
        if 1 < value <= 2:
            do += "; subtract 1 from AlpacaEval's 1…2, and write draws (0 or 1.5) as 0.5"
        raise _bad_cell(row, "preference", f"is {value:g}, outside 0…1", do)
    return value


def _length(row: Row, column: str) -> float:
    value = _number(row, column)
    if value < 0:
        raise _bad_cell(row, column, f"is {value:g}, but a length cannot be negative", "give lengths in characters")
    return value


def _number(row: Row, column: str) -> float:
    cell = row[1][column]
    if cell is None or _is_empty(cell):
        raise _bad_cell(row, column, "is empty", "give a number")
    try:
        value = float(cell)
    except (TypeError, ValueError):
        raise _bad_cell(row, column, f"is {cell!r}, not a number", "give a number") from None
    if not math.isfinite(value):
        do = "leave the cell empty if the judge gave no verdict" if column == "preference" else "give a finite number"
        raise _bad_cell(row, column, f"is {cell}, not a finite number", do)
    return value


def _indices(rows: Iterable[Row]) -> tuple[str, ...]:
    """The column index as text; 3, "3" and the 3.0 that a table program made of it are the same index."""
    seen: dict[str, str] = {}
    for row in rows:
        place, cells = row
        if _is_empty(cells["index"]):
            raise _bad_cell(row, "index", "is empty", "give every row the index of its instruction")
        index = re.sub(r"^(\d+)\.0+$", r"\1", str(cells["index"]).strip())
        if index in seen:
            raise _bad_cell(row, "index", f"{index} is already in {seen[index]}", "keep one row per instruction")
        seen[index] = place
    return tuple(seen)


def _is_empty(cell: object) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip())


def _bad_cell(row: Row, column: str, what: str, do: str) -> UserError:
    index = "" if column == "index" or _is_empty(row[1].get("index")) else f" (index {row[1]['index']})"
    return UserError(f"{column} {what}{index}", where=f"{row[0]}, column {column}", do=do)


def _read(path: Path, needed: Sequence[str]) -> list[Row]:
    """The rows of a csv, csv.gz or parquet table that has the columns `needed` and at least one row."""
    wanted = f"a table with the columns {', '.join(needed)}"
    if not path.is_file():
        raise UserError("file not found", where=str(path), do=f"give {wanted}")
    try:
        columns, rows = _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
    except (UnicodeDecodeError, csv.Error, pa.ArrowException, EOFError, OSError) as error:
        do = f"give {wanted}, as .csv, .csv.gz or .parquet"
        raise UserError(f"the table cannot be read: {error}", where=str(path), do=do) from error
    missing = [column for column in needed if column not in columns]
    if missing:
        what = f"column {', '.join(missing)} not found; the table has {', '.join(columns) or 'no columns'}"
        raise UserError(what, where=str(path), do=f"give {wanted}")
    if not rows:
        raise UserError("the table has no rows", where=str(path), do="give at least one judged pair or instruction")
    return rows


def _read_parquet(path: Path) -> tuple[list[str], list[Row]]:
    table = pq.read_table(path)
    return table.column_names, [(f"{path} row {i}", row) for i, row in enumerate(table.to_pylist(), 1)]


def _read_csv(path: Path) -> tuple[list[str], list[Row]]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, restkey="", strict=True)
        columns = list(reader.fieldnames or [])
        rows: list[Row] = []
        for cells in reader:
            if "" in cells and "" not in columns:
                raise csv.Error(f"line {reader.line_num} has more cells than the header")
            rows.append((f"{path}:{reader.line_num}", cells))
    return columns, rows
