"""Tables of reward models for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from icr.base.fields import Fields
from icr.report.numbers import between, number

if TYPE_CHECKING:
    from prompts.preferences.make import DataReport


def data_table(report: DataReport) -> Table:
    """A row per language of what `icr rm data` made."""
    pairs = report.kind == "pairs"
    share = "longer\nwins" if pairs else "label\n1"
    identical = ("iden-\ntical",) if pairs else ()
    names = ("rows", "left\nout", report.kind, "train", "vali-\ndation", "prompts", share, *identical, "over-\nlap")
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for lang, tally in report.languages.items():
        kept = tally.train + tally.validation
        counts = (tally.rows, sum(tally.left_out.values()), kept, tally.train, tally.validation, tally.prompts)
        shares = (_percent(tally.longer_wins), _percent(tally.identical)) if pairs else (_percent(tally.positive),)
        table.add_row(lang, *map(str, (*counts, *shares, tally.overlap)))
    return table


def accuracy_table(models: Mapping[str, Mapping[str, Fields]], of: str = "") -> Table:
    """A row per model and language: accuracy beside its baselines, in percent.

    Args:
        models: name → language → what `eval.reward_models.accuracy` measured.
        of: what it is measured on, where that is not the data's own rows.
    """
    ratings = any(found["kind"] == "ratings" for languages in models.values() for found in languages.values())
    caption = f"{of}; chance is 50 %" if of else "chance is 50 %"
    table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left")
    if len(models) > 1:
        table.add_column("model")
    table.add_column("", no_wrap=True)
    last = ("major-\nity", "AUC", "peo-\nple") if ratings else ("equal",)
    for name in ("n", "accu-\nracy", "95 %", "len-\ngth", "like length\n(expected)", *last):
        table.add_column(name, justify="right", no_wrap=True)
    for model, languages in models.items():
        for lang, found in languages.items():
            table.add_row(*([model] if len(models) > 1 else []), lang, *_accuracy_cells(found, ratings))
    return table


def _accuracy_cells(found: Fields, ratings: bool) -> list[str]:
    agree = f"{number(found.get('length_agreement'))} ({number(found.get('expected_agreement'))})"
    cells = [str(found["n"]), number(found.get("accuracy")), between(found.get("accuracy_interval"))]
    cells += [number(found.get("length")), agree]
    if not ratings:
        return [*cells, number(found.get("ties"))]
    area = found.get("auc")
    shown = "–" if area is None else f"{area:.3f}"
    return [*cells, number(found.get("majority")), shown, number(found.get("human_agreement"))]


def differences_table(result: Fields) -> Table:
    """A row per further model and language: its accuracy minus the first model's, on the same rows."""
    first = next(iter(result["models"] or result["judges"]))
    table = Table(box=box.SIMPLE_HEAD, caption=f"accuracy minus that of {first}", caption_justify="left")
    for name in ("model", ""):
        table.add_column(name)
    for name in ("n", "difference", "95 %"):
        table.add_column(name, justify="right", no_wrap=True)
    for model, languages in result["differences"].items():
        for lang, found in languages.items():
            value, between = found.get("difference"), found.get("difference_interval")
            shown = "–" if between is None else f"{between[0]:+.1f} … {between[1]:+.1f}"
            table.add_row(model, lang, str(found["n"]), "–" if value is None else f"{value:+.1f}", shown)
    return table


def agreement_table(rows: Sequence[Fields]) -> Table:
    """How often every two rows say the same of an instance, in percent, and how often independent ones would.

    Args:
        rows: of `eval.reward_models.evaluate.compare_rows`.
    """
    table = Table(box=box.SIMPLE_HEAD, caption="how often two say the same", caption_justify="left")
    for name in ("", "and", ""):
        table.add_column(name, no_wrap=name == "")
    for name in ("n", "agree", "95 %", "expected"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        figures = number(row.get("agreement")), between(row.get("agreement_interval")), number(row.get("expected"))
        table.add_row(*row["rows"], row["language"], str(row["n"]), *figures)
    return table


def bench_table(result: Fields) -> Table:
    """A row per model and language: the sections of a benchmark and their mean, in percent."""
    every = [found for languages in result["models"].values() for found in languages.values()]
    sections = list(dict.fromkeys(name for found in every for name in found["sections"]))
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("model", ""):
        table.add_column(name, no_wrap=True)
    for name in ("n", *sections, "overall"):
        table.add_column(name, justify="right")
    for model, languages in result["models"].items():
        for lang, found in languages.items():
            cells = [number(found["sections"].get(name)) for name in sections]
            table.add_row(model, lang, str(found["n"]), *cells, number(found["overall"]))
    return table


def longer_table(longer: Mapping[str, Mapping[str, float | None]]) -> Table:
    """A row per language and subset: how often the longer answer is the right one, in percent, ties left out."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("", "subset"):
        table.add_column(name, no_wrap=True)
    table.add_column("longer is right", justify="right")
    for lang, subsets in longer.items():
        for subset, value in subsets.items():
            table.add_row(lang, subset, number(value))
    return table


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"
