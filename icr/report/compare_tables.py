"""The output of `icr compare`: on the terminal, and as one page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from eval.clusters import excludes
from icr.base.files import write_text
from icr.report.numbers import number, share
from icr.report.page import environment

if TYPE_CHECKING:
    from icr.experiments.compare import Comparison


class VariantRow(TypedDict):
    """A variant in one language. Values that there are not are None."""

    language: str
    variant: str
    win_rate: float | None
    win_rate_se: float | None
    lc_win_rate: float | None
    lc_win_rate_se: float | None
    mean_length: float | None
    difference: float | None
    """Of the win rate from the first variant, with its interval."""
    low: float | None
    high: float | None


def rows(result: Comparison) -> list[VariantRow]:
    """A row per language and variant at the last round, the average last: the numbers of the paper's Table 12."""
    last = result["rounds"]
    found: list[VariantRow] = []
    for code in [*result["languages"], "average"]:
        for name, variant in result["variants"].items():
            summary = variant[last]["summary"]
            of = (
                {}
                if summary is None
                else summary["average"]
                if code == "average"
                else summary["languages"].get(code, {})
            )
            difference = result["differences"].get(name, {}).get(last)
            part = None
            if difference is not None:
                part = difference["average"] if code == "average" else difference["languages"].get(code)
            found.append(
                {
                    "language": code,
                    "variant": name,
                    "win_rate": of.get("win_rate"),
                    "win_rate_se": of.get("win_rate_se"),
                    "lc_win_rate": of.get("lc_win_rate"),
                    "lc_win_rate_se": of.get("lc_win_rate_se"),
                    "mean_length": of.get("mean_length"),
                    "difference": part["difference"] if part else None,
                    "low": part["low"] if part else None,
                    "high": part["high"] if part else None,
                }
            )
    return found


def conclude(result: Comparison) -> list[str]:
    """A sentence for each variant but the first: whether its win rate differs, on average over the languages."""
    lines = []
    for row in rows(result):
        if row["language"] != "average" or row["variant"] == result["baseline"] or row["difference"] is None:
            continue
        points = f"{number(abs(row['difference']))} points {'above' if row['difference'] > 0 else 'below'}"
        between = ""
        if row["low"] is not None and row["high"] is not None:
            between = f" (95 % interval {number(row['low'], sign=True)} to {number(row['high'], sign=True)})"
        clear = excludes(0, row["low"], row["high"])
        verdict = (
            "" if clear else "; the interval contains 0, so no difference is shown" if between else "; no interval"
        )
        lines.append(f"{row['variant']} is {points} {result['baseline']}{between}{verdict}.")
    return lines


def compare_tables(result: Comparison) -> RenderableType:
    """Win rates and lengths per language and variant, what the rewards made, and how far they agree."""
    parts: list[RenderableType] = []
    if result["judge"] is not None:
        parts += [_judged(result)]
        parts += [Text(f"{name} is not compared: {why}") for name, why in result["not_compared"].items()]
        parts += [Text(line) for line in _without(result)]
    parts += [_made(result)]
    if result["agreement"]:
        parts += [_agreement(result)]
    taken = sum(map(len, result["shared"].values()))
    parts.append(Text(f"{taken} stages were taken over from another variant and not run again"))
    return Group(*parts)


def _without(result: Comparison) -> list[str]:
    """Why differences of the last round have no interval, each reason once."""
    found = [of[result["rounds"]] for of in result["differences"].values() if result["rounds"] in of]
    every = [item for of in found for item in [*of["languages"].items(), ("average", of["average"])]]
    reasons: dict[str, dict[str, None]] = {}
    for code, row in every:
        if row["why"]:
            reasons.setdefault(row["why"], {})[code] = None
    return [f"{', '.join(codes)}: no interval: {why}" for why, codes in reasons.items()]


def _judged(result: Comparison) -> Table:
    table = _table("lang.", "variant", "win rate\n± se", "LC\n± se", "length", "differ-\nence", "95 %\ninterval")
    before = ""
    for row in rows(result):
        bounds = ""
        if row["low"] is not None:
            bounds = f"{number(row['low'], sign=True)} … {number(row['high'], sign=True)}"
        cells = [row["language"] if row["language"] != before else "", _short(row["variant"])]
        cells += [_with_error(row["win_rate"], row["win_rate_se"])]
        cells += [_with_error(row["lc_win_rate"], row["lc_win_rate_se"]), number(row["mean_length"], 0)]
        change = number(row["difference"], sign=True) if row["difference"] is not None else ""
        clear = excludes(0, row["low"], row["high"])
        table.add_row(*cells, change, bounds, style="bold" if clear else "")
        before = row["language"]
    table.caption = (
        f"round {result['rounds']}, percent ± standard error; difference of win rate from {result['baseline']}, "
        "bold where its interval excludes 0"
    )
    return table


def _made(result: Comparison) -> Table:
    table = _table("variant", "round", "pairs", "chosen", "rejected", "margin")
    for name, rounds in result["variants"].items():
        for n, found in rounds.items():
            of = list((found.get("pairs") or {}).values())
            if not of:
                continue
            cells = [_short(name), str(n), number(sum(p["pairs"] for p in of), 0)]
            for key, digits in (("chosen_length", 0), ("rejected_length", 0), ("reward_margin", 2)):
                values = [p[key] for p in of if p.get(key) is not None]
                cells.append(number(sum(values) / len(values), digits) if values else number(None))
            table.add_row(*cells)
    table.caption = "pairs of all languages; mean lengths of chosen and rejected, mean reward margin"
    return table


def _agreement(result: Comparison) -> Table:
    table = _table("variants", "lang.", "rank\ncorrelation", "equal\npairs", "prompts")
    for pair in result["agreement"]:
        one, two = pair["variants"]
        for code, row in [*pair["languages"].items(), ("average", pair["average"])]:
            name = f"{_short(one)} / {_short(two)}" if code == next(iter(pair["languages"])) else ""
            table.add_row(
                name,
                code,
                number(row["rank_correlation"], 2),
                share(row["equal_pairs"]),
                number(pair["languages"][code]["prompts"], 0) if code != "average" else "",
            )
    table.caption = "round 1, on the same responses: Spearman's ρ within a prompt, share of prompts with the same pair"
    return table


def _short(variant: str) -> str:
    """The value alone, where one setting varies."""
    return variant if ", " in variant else variant.partition("=")[2] or variant


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, caption_justify="left", collapse_padding=True, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name in ("lang.", "variant", "variants") else "right", no_wrap=True)
    return table


def _with_error(value: float | None, error: float | None) -> str:
    return number(value) + (f" ± {number(error)}" if value is not None and error is not None else "")


def write_page(result: Comparison, out: Path) -> Path:
    """`out`/compare.html."""
    template = environment().get_template("compare.html.j2")
    title = out.resolve().name
    page = template.render(result=result, rows=rows(result), conclusions=conclude(result), title=title, short=_short)
    write_text(out / "compare.html", page)
    return out / "compare.html"
