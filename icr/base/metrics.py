"""`metrics.jsonl`: a line for each optimiser step, its values by name."""

from __future__ import annotations

import json
from pathlib import Path

Metrics = dict[str, float]
"""A line of metrics.jsonl: an optimiser step's values by name."""


def read_metrics(path: Path) -> list[Metrics]:
    """Rows of a metrics.jsonl, one per step: a resumed training writes some steps again, and the later row counts.
    An unfinished last line belongs to a training that is still writing."""
    rows: dict[float, Metrics] = {}
    lines = path.read_text(encoding="utf-8").split("\n")
    for line in lines[:-1]:
        row = json.loads(line)
        rows[row["step"]] = row
    return [rows[step] for step in sorted(rows)]
