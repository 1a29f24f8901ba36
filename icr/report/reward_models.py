"""Tables of reward models for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from prompts.preferences.make import DataReport


def data_table(report: DataReport) -> Table:
    """A row per language of what `icr rm data` made."""
    pairs = report.kind == "pairs"
    share = "longer\nwins" if pairs else "label\n1"
    names = ("rows", "left\nout", report.kind, "train", "vali-\ndation", "prompts", share, "iden-\ntical", "over-\nlap")
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for lang, tally in report.languages.items():
        kept = tally.train + tally.validation
        counts = (tally.rows, sum(tally.left_out.values()), kept, tally.train, tally.validation, tally.prompts)
        shares = (_percent(tally.longer_wins if pairs else tally.positive), _percent(tally.identical) if pairs else "–")
        table.add_row(lang, *map(str, (*counts, *shares, tally.overlap)))
    return table


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"
