"""Monolingual against transfer against translate-train: tables for the terminal, rows for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from icr.base.fields import Fields
from icr.report.numbers import number

DIFFERENCES: Mapping[str, str] = {
    "transfer_minus_monolingual": "transfer − monolingual",
    "translate_train_minus_transfer": "translate-train − transfer",
    "translate_train_minus_monolingual": "translate-train − monolingual",
}
"""Key of a difference → what it is called."""
TRAINED: Mapping[str, str] = {"dpo": "DPO", "rl": "RLOO"}
"""Key of a method that trains policies → what it is called."""


def variant_rows(result: Fields) -> dict[str, Sequence[Fields]]:
    """What is compared → a row for each source and target."""
    found: dict[str, Sequence[Fields]] = {"accuracy": result.get("variants", [])}
    for judge, of in result.get("judges", {}).items():
        found[f"win rate by {judge}"] = of.get("variants", [])
        for method, name in TRAINED.items():
            found[f"win rate by {judge} after {name}"] = of.get(method, {}).get("variants", [])
    return {name: rows for name, rows in found.items() if rows}


def variant_tables(result: Fields) -> list[RenderableType]:
    """A table of accuracy, and one for each judge."""
    tables: list[RenderableType] = []
    for name, rows in variant_rows(result).items():
        tables += [Text(f"monolingual against transfer against translate-train: {name}, in percent"), _table(rows)]
    if tables:
        tables.append(Text("differences are paired, on the same rows, with 95 % intervals over prompts\n"))
    return tables


def side_rows(result: Fields) -> dict[str, Sequence[Fields]]:
    """Judge, and how the policy was aligned → a row for each source, target and side of demonstrations other than
    organic."""
    found: dict[str, Sequence[Fields]] = {}
    for judge, of in result.get("judges", {}).items():
        found[judge] = of.get("demonstrations", [])
        for method, name in TRAINED.items():
            found[f"{judge} after {name}"] = of.get(method, {}).get("demonstrations", [])
    return {name: rows for name, rows in found.items() if rows}


def side_tables(result: Fields) -> list[RenderableType]:
    """What translated demonstrations cost, by each judge."""
    tables: list[RenderableType] = []
    for judge, rows in side_rows(result).items():
        table = Table(box=box.SIMPLE_HEAD)
        for name in ("target", "trained on", "demonstrations"):
            table.add_column(name, no_wrap=True)
        for name in ("organic", "these", "difference"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in rows:
            names = (row["target"], row["source"], row["demonstrations"])
            table.add_row(*names, number(row["organic"]), number(row["figure"]), _difference(row, "difference"))
        caption = f"demonstrations of the policy: win rate by {judge} against the organic policy's own, in percent"
        tables += [Text(caption), table]
    return tables


def _table(rows: Sequence[Fields]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("target", "source"):
        table.add_column(name, no_wrap=True)
    names = ("mono-\nlingual", "trans-\nfer", "trans-\nlate-\ntrain")
    for name in (*names, *(heading.replace(" − ", "\n− ") for heading in DIFFERENCES.values())):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        figures = [number(row[key]) for key in ("monolingual", "transfer", "translate_train")]
        table.add_row(row["target"], row["source"], *figures, *(_difference(row, key) for key in DIFFERENCES))
    return table


def _difference(row: Fields, key: str) -> str:
    interval = row[f"{key}_interval"]
    shown = "" if interval is None else f"\n{number(interval[0], sign=True)} … {number(interval[1], sign=True)}"
    return f"{number(row[key], sign=True)}{shown}"
