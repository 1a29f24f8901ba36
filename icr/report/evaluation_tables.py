"""The output of an evaluation on the terminal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from eval.clusters import excludes
from eval.mtbench.summary import mtbench_rows
from eval.rates import reasons
from eval.terms import show_judge

if TYPE_CHECKING:
    from eval.difference import Difference
from icr.base.fields import Fields
from icr.report.numbers import number, share


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name == columns[0] else "right", no_wrap=True)
    return table


def _with_error(row: Fields, field: str, digits: int = 1) -> str:
    value, error = row.get(field), row.get(f"{field}_se")
    return number(value, digits) + (f" ± {number(error, digits)}" if value is not None and error is not None else "")


def _asides(summary: Fields) -> Text:
    """Who judged, what it cost, every reason why something is missing, and what is left out of the rates."""
    cost = summary.get("cost")
    lines = [f"judge: {show_judge(summary)}" + (f", {_money(cost)}" if cost else "")]
    if source := summary.get("template_source"):
        lines.append(f"prompt: {source} ({summary['template']})")
    lines += panel_lines(summary["panel"]) if summary.get("panel") else []
    without: dict[str, list[str]] = {}
    missing: dict[str, list[str]] = {}
    for code, row in [*summary["languages"].items(), ("average", summary["average"])]:
        for key, reason in reasons(row):
            if key.endswith("_interval") or key in ("low", "high"):
                without.setdefault(reason, []).append(code)
            else:
                missing.setdefault(f"no {key.replace('_', ' ')}: {reason}", []).append(code)
        lines += [f"{code}: {count} unscored: {reason}" for reason, count in (row.get("reasons") or {}).items()]
        lines += [f"{code}: {text}" for text in _left_out(row)]
    lines += [f"{', '.join(codes)}: {text}" for text, codes in missing.items()]
    lines += [f"{', '.join(dict.fromkeys(codes))}: no interval: {reason}" for reason, codes in without.items()]
    return Text("\n".join(lines))


def panel_lines(panel: Fields) -> list[str]:
    """What each of several judges says on average, what most of them say, and how far they agree."""
    lines = [f"{name}: {_value(of['average'])}" for name, of in panel["judges"].items()]
    if "majority" in panel:
        lines.append(f"what most judges say: {_value(panel['majority']['average'])}")
    alphas = ", ".join(f"{name} {number(alpha, 2)}" for name, alpha in panel["alpha"].items() if name != "why")
    return [*lines, f"agreement of the judges, Krippendorff's α: {alphas}"]


def _value(row: Fields) -> str:
    return number(row["value"], 2) + (f" ± {number(row['se'], 2)}" if row.get("se") is not None else "")


def _left_out(row: Fields) -> list[str]:
    """What of a language's items does not count as the others do."""
    found = []
    if row.get("one_order"):
        found.append(f"{row['one_order']} items were judged in one order only; they count in no rate")
    if row.get("identical"):
        found.append(f"{row['identical']} answers are identical to the baseline's: draws, not asked")
    if row.get("soft_verdicts") and row.get("hard_verdicts"):
        soft, hard = row["soft_verdicts"], row["hard_verdicts"]
        found.append(f"{soft} verdicts are weighted by probabilities, {hard} are a label alone")
    return found


def _money(cost: Fields) -> str:
    paid = "price unknown" if cost.get("usd") is None else f"{cost['usd']:.2f} US dollars"
    tokens = (cost.get("prompt_tokens") or 0) + (cost.get("completion_tokens") or 0)
    return f"{paid} for {cost.get('calls', 0):,} answers of {tokens:,} tokens"


def xalpaca_table(summary: Fields) -> RenderableType:
    """Win rates per language with standard errors, and the other columns."""
    heads = ("win rate\n± se", "discrete\n± se", "LC\n± se", "length", "theirs", "right\nlang.", "by\norder")
    table = _table("lang.", "n", *heads)
    for code, row in [*summary["languages"].items(), ("average", summary["average"])]:
        whole = code != "average"
        table.add_row(
            code,
            number(row.get("n"), 0) if whole else "",
            _with_error(row, "win_rate"),
            _with_error(row, "discrete_win_rate"),
            _with_error(row, "lc_win_rate"),
            number(row.get("mean_length"), 0),
            number(row.get("mean_length_baseline"), 0) if whole else "",
            share(row.get("right_language")) if whole else "",
            share(row.get("position_bias")) if whole else "",
        )
    variants = sorted({row["lc_variant"] for row in summary["languages"].values() if row.get("lc_variant")})
    fitted = f"\nLC fitted as {', '.join(variants)}" if variants else ""
    head = Text(
        f"Rates in percent against {Path(summary['baseline']).name}, orders: {summary['orders']}; "
        f"lengths in characters; by order: share of items whose winner changes when the answers are swapped.{fitted}"
    )
    return Group(table, head, *_at_equal_style(summary), *_fidelity(summary), _asides(summary))


def _at_equal_style(summary: Fields) -> list[Text]:
    """Win rates where both answers have the same length, headers, lists and bold passages."""
    rows = [*summary["languages"].items(), ("average", summary["average"])]
    found = [f"{code} {_with_error(row, 'style_win_rate')}" for code, row in rows if row.get("style_win_rate")]
    return [Text(f"win rate at equal style: {', '.join(found)}")] if found else []


def _fidelity(summary: Fields) -> list[Text]:
    """Shares of answers that stay in their language line by line and, for other scripts, word by word."""
    found = [
        f"{code} {share(row['line_pass'])}"
        + (f" (words {share(row['word_pass'])})" if "word_pass" in row else "")
        + f", theirs {share(row.get('line_pass_baseline'))}"
        for code, row in summary["languages"].items()
        if row.get("line_pass") is not None
    ]
    return [Text(f"answers with every line in the language: {'; '.join(found)}")] if found else []


def accuracy_table(summary: Fields) -> RenderableType:
    """Share of pairs in which the judge agrees with the reward."""
    table = _table("language", "pairs", "accuracy", "ties", "unscored")
    for code, row in summary["languages"].items():
        table.add_row(code, number(row["n"], 0), _with_error(row, "accuracy"), share(row["ties"]), str(row["unscored"]))
    table.add_row("average", "", _with_error(summary["average"], "accuracy"), "", "")
    return Group(table, Text("percent of pairs, a tie counts as half, ± standard error"), _asides(summary))


def difference_table(result: Difference, first: str, second: str) -> RenderableType:
    """Second minus first, with 95 % intervals over prompts."""
    table = _table("language", "items", "first", "second", "difference", "95 % interval")
    for code, row in [*result["languages"].items(), ("average", result["average"])]:
        low, high = row["low"], row["high"]
        bounds, clear = "", False
        if low is not None and high is not None:
            bounds, clear = f"{number(low, 2, sign=True)} … {number(high, 2, sign=True)}", excludes(0, low, high)
        cells = [code, number(row["n"], 0), number(row["first"], 2), number(row["second"], 2)]
        table.add_row(*cells, number(row["difference"], 2, sign=True), bounds, style="bold" if clear else "")
    left = sum(row["left_out"] for row in result["languages"].values())
    lines = [f"{result['unit']}; first: {first}; second: {second}; bold: the interval excludes 0"]
    lines += [f"{left} items are left out because only one of them has them"] if left else []
    for side in ("first", "second"):
        alone = result["only_first"] if side == "first" else result["only_second"]
        lines += [f"only the {side} has {', '.join(alone)}; not in the average"] if alone else []
    rows = [*result["languages"].items(), ("average", result["average"])]
    lines += [f"{code}: no interval: {row['why']}" for code, row in rows if row["why"]]
    return Group(table, Text("\n".join(lines)))


def mtbench_table(summary: Fields) -> RenderableType:
    """Grades per language with 95 % intervals, by turn and by category."""
    rows = mtbench_rows({"": summary})
    low, high = summary.get("scale", (1, 10))
    table = _table("language", "n", "average", "95 %", "turn 1", "turn 2")
    for row in rows:
        bounds = "" if row["low"] is None else f"{number(row['low'])}–{number(row['high'])}"
        turns = [number(row["turn_1"], 2), number(row["turn_2"], 2)]
        n = number(row["n"], 0) if row["language"] != "average" else ""
        table.add_row(row["language"], n, number(row["average"], 2), bounds, *turns)
    categories = _table("category", *(row["language"] for row in rows))
    for name in rows[0]["categories"]:
        categories.add_row(name, *(number(row["categories"].get(name), 1) for row in rows))
    return Group(
        table, categories, Text(f"Grades from {low:g} to {high:g}; intervals over questions."), _asides(summary)
    )


def nlp_result(summary: Fields) -> RenderableType:
    """Values of each task with standard errors."""
    table = _table("benchmark", "language", "task", "items", "metric", "value")
    for row in summary["tasks"]:
        error = "" if row["se"] is None else f" ± {number(row['se'], 3)}"
        cells = [row["benchmark"], row["language"] or "–", row["task"], number(row["n"], 0), row["metric"]]
        table.add_row(*cells, number(row["value"], 3) + error)
    without = [f"{lang}: no task in {', '.join(names)}" for lang, names in summary["without"].items()]
    return Group(table, Text("\n".join(without)))


TABLES: dict[str, Callable[[Fields], RenderableType]] = {
    "xalpaca": xalpaca_table,
    "mtbench": mtbench_table,
    "accuracy": accuracy_table,
    "nlp": nlp_result,
}
