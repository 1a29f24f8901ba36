"""Tables of `icr best-of-n` for the terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table

from icr.base.fields import Fields
from icr.report.numbers import NOTHING, between, number

DIGITS = 3


def best_table(name: str, found: Fields) -> Table:
    """A row for each k: the bound on its KL, the expected score on average with its interval, and of each language.

    Args:
        name: of the reward.
        found: what best_of_k.json has.
    """
    table = Table(box=box.SIMPLE_HEAD, title=f"expected {name} of the best of k", title_justify="left")
    for column in ("k", "KL at\nmost", "mean", "95 %", *found["languages"]):
        table.add_column(column, justify="right", no_wrap=True)
    for row in found["best_of_k"]:
        average = row["average"]
        cells = [number(average["score"], DIGITS), _interval(average["score_interval"])]
        cells += [number(of_lang["score"], DIGITS) for of_lang in row["languages"].values()]
        table.add_row(str(row["k"]), number(row["kl_bound"], 2), *cells)
    return table


def wins_table(name: str, judge: str, found: Fields) -> Table:
    """A row for each k: the expected win rate of the best of k against the baseline, on average and of each language.

    Args:
        name: of the reward that chooses.
        found: what win_rates.json has of the judge.
    """
    title = f"expected win rate of the best of k by {name}, judged by {judge} against {found['baseline']}, in percent"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    rows = found["best_of_k"]
    for column in ("k", "KL at\nmost", "mean", "95 %", *rows[0]["languages"]):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        average = row["average"]
        cells = [number(average["win_rate"]), between(average["win_rate_interval"])]
        cells += [number(of_lang["win_rate"]) for of_lang in row["languages"].values()]
        table.add_row(str(row["k"]), number(row["kl_bound"], 2), *cells)
    return table


def describe_samples(samples: Fields) -> list[str]:
    """In words: prompts that were not sampled."""
    too_long: dict[str, list[str]] = samples.get("dropped_too_long", {})
    counts = [f"{lang} {len(ids)}" for lang, ids in too_long.items()]
    return [f"prompts too long for the model's context, not sampled: {', '.join(counts)}"] if counts else []


def describe_missing(name: str, found: Fields) -> list[str]:
    """In words: candidates without a score, prompts without an answer, and why there is no interval."""
    lines = []
    for key, text in (
        ("too_long", f"longer than {name} reads, without a score"),
        ("without_answer", f"none of the first {found['k']} candidates has a score, without an answer"),
    ):
        counts = [f"{lang} {facts[key]}" for lang, facts in found["languages"].items() if facts[key]]
        if counts:
            lines.append(f"{text}: {', '.join(counts)}")
    reasons = [row["average"].get("why", {}).get("score_interval") for row in found["best_of_k"]]
    lines += [f"95 %: {reason}" for reason in dict.fromkeys(reasons) if reason]
    return lines


def _interval(value: list[float] | None) -> str:
    return NOTHING if value is None else f"{number(value[0], DIGITS)} … {number(value[1], DIGITS)}"
