"""Figures as rows of csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence


def without_lists(figures: Mapping[str, object]) -> dict[str, object]:
    """An interval as two columns, `low` and `high`; other lists and mappings are left out."""
    flat: dict[str, object] = {}
    for name, value in figures.items():
        if name.endswith("interval"):
            low, high = value if isinstance(value, list) else (None, None)
            prefix = name.removesuffix("interval")
            flat |= {f"{prefix}low": low, f"{prefix}high": high}
        elif not isinstance(value, dict | list):
            flat[name] = value
    return flat


def make_csv(rows: Sequence[Mapping[str, object]]) -> str:
    """With all columns that any row has, in the order of their first appearance."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
