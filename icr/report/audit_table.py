"""An audit on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from eval.clusters import excludes
from icr.base.fields import Fields
from icr.report.numbers import number

BIAS_COLUMNS = {
    "position": "position",
    "verbosity": "verbosity\n/100 chars",
    "language": "wrong\nlanguage",
}
WITH_WHOM = {"orders": "other order", "repeats": "asked again", "people": "people"}
AGREE_COLUMNS = {f"{name}_agree": title for name, title in WITH_WHOM.items()}
KAPPA_COLUMNS = {f"{name}_kappa": title for name, title in WITH_WHOM.items()}
RATE_COLUMNS = {"judge_alone": "judge alone", "labels_alone": "labels alone", "corrected": "corrected"}
WORDS = {
    "position": "position bias",
    "verbosity": "verbosity bias",
    "language": "wrong-language bias",
    "orders_agree": "agreement with the other order",
    "orders_kappa": "κ with the other order",
    "repeats_agree": "agreement when asked again",
    "repeats_kappa": "κ when asked again",
    "people_agree": "agreement with people",
    "people_kappa": "κ with people",
    "judge_alone": "win rate by the judge alone",
    "labels_alone": "win rate by labels alone",
    "corrected": "corrected win rate",
}
LINES = {
    "position": "position: points that the answer shown first gets above half",
    "language": "wrong language: points that an answer gets for it, against one in the right language",
    "corrected": "corrected: the judge's win rate, corrected by people's labels (prediction-powered inference)",
}


def audit_tables(result: Fields) -> RenderableType:
    """Biases, agreements and, with people's labels, the corrected win rate; each with its 95 % interval."""
    parts: list[RenderableType] = [Text("points of preference:"), _table(result, BIAS_COLUMNS, ("n",), sign=True)]
    if "position_to_people" in result["average"]:
        beside = {f"{name}_to_people": title for name, title in BIAS_COLUMNS.items()}
        parts += [Text("beyond people's labels:"), _table(result, beside, ("labelled",), sign=True)]
    parts += [Text("agreement, percent of equal verdicts (won, drawn, lost):"), _table(result, AGREE_COLUMNS)]
    parts += [Text("the same beyond chance, Cohen's κ:"), _table(result, KAPPA_COLUMNS)]
    if "corrected" in result["average"]:
        parts += [Text("win rate in percent:"), _table(result, RATE_COLUMNS, ("labelled", "power"))]
    parts.append(Text("\n".join([*_legend(result), *reasons_of(result), *_counts(result)])))
    return Group(*parts)


def _table(result: Fields, columns: dict[str, str], counts: Sequence[str] = (), *, sign: bool = False) -> Table:
    names = [name for name in columns if name in result["average"]]
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for title in ("lang.", *(COUNTS.get(name, name) for name in counts), *(columns[name] for name in names)):
        table.add_column(title, justify="left" if title == "lang." else "right", no_wrap=True)
    for code, row in [*result["languages"].items(), ("average", result["average"])]:
        shown = [number(row.get(name), 2 if name == "power" else 0) if code != "average" else "" for name in counts]
        table.add_row(code, *shown, *(_cell(name, row.get(name, {}), sign) for name in names))
    return table


COUNTS = {"power": "λ"}


def _cell(name: str, found: Fields, sign: bool) -> Text:
    """A value with its interval; bold where the interval of a bias excludes 0."""
    digits = 2 if name.endswith("_kappa") or name.startswith("verbosity") else 1
    text = number(found.get("value"), digits, sign=sign)
    low, high = found.get("low"), found.get("high")
    if low is not None and high is not None:
        text += f"\n{number(low, digits, sign=sign)} … {number(high, digits, sign=sign)}"
    return Text(text, style="bold" if sign and excludes(0.0, low, high) else "", justify="right")


def _legend(result: Fields) -> list[str]:
    lines = [line for name, line in LINES.items() if name in result["average"]]
    times = {code: row["askings"] for code, row in result["languages"].items() if row.get("askings", 1) > 1}
    if times and "corrected" in result["average"]:
        lines.append(f"corrected by the mean of {max(times.values())} verdicts on each question: {', '.join(times)}")
    return ["each value has its 95 % interval below it, over prompts; bold: it excludes 0", *lines]


def reasons_of(result: Fields, named: Callable[[str], str] = str) -> list[str]:
    """Why a value or an interval is missing, and over which languages an average is.

    Args:
        named: from a language's code to what it is called here; the tables on the terminal have codes.
    """
    found: dict[str, list[str]] = {}
    for code, row in result["languages"].items():
        for name, value in row.items():
            if isinstance(value, dict) and value.get("why"):
                missing = "95 % interval of the " if value.get("value") is not None else ""
                found.setdefault(f"no {missing}{in_words(name)}: {value['why']}", []).append(named(code))
    lines = [f"{', '.join(codes)}: {reason}" for reason, codes in found.items()]
    some: dict[str, list[str]] = {}
    for name, value in result["average"].items():
        if value["languages"] and len(value["languages"]) < len(result["languages"]):
            some.setdefault(", ".join(map(named, value["languages"])), []).append(in_words(name))
    return lines + [f"averaged over {langs} alone: {', '.join(names)}" for langs, names in some.items()]


def in_words(name: str) -> str:
    """A figure of the summary in a sentence."""
    if name.endswith("_to_people"):
        return f"{in_words(name.removesuffix('_to_people'))} beyond people's labels"
    return WORDS.get(name, name.replace("_", " "))


def _counts(result: Fields) -> list[str]:
    words = {
        "identical": "answers are identical to the baseline's: not asked, not counted here",
        "unscored": "verdicts are missing",
        "labelled_without_verdict": "labelled prompts have no verdict",
    }
    rows = result["languages"].items()
    lines = [f"{code}: {row[name]} {text}" for code, row in rows for name, text in words.items() if row.get(name)]
    return [*lines, f"judge: {result['judge']}; baseline: {result['baseline']}; orders: {result['orders']}"]
