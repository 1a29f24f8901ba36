"""Do sources of some kind serve better? Groups of win rates by features of languages, as arXiv 2404.12318 § 6.2.

Each test is a one-sided Welch t-test: is the mean of the first group above that of the second? With m tests, p is
multiplied by m (Bonferroni), at most 1. Rates that share a source or a target are not independent, which the test takes
them for: its p is rather too low than too high.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import ttest_ind

from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.problems import Collector

Features = Mapping[str, Mapping[str, str]]
"""Language → feature → value."""


class Rate(NamedTuple):
    """How well one source serves one target."""

    source: str
    target: str
    value: float


def read_features(path: str) -> Features:
    """A csv with the column `language` and one column for each feature.

    Raises:
        ConfigError: every bad row. UserError: no such file, or columns are missing.
    """
    rows = _read(path, "--features", ["language"])
    found, table = Collector(), {}
    for number, row in rows:
        lang = row.pop("language").strip()
        if lang in table:
            found.add(f"language {lang} appears twice", where=f"{path}:{number}", do="keep one row for each language")
        if empty := [name for name, value in row.items() if not (value or "").strip()]:
            do = "give every language a value for every feature"
            found.add(f"{lang} has no value for {', '.join(empty)}", where=f"{path}:{number}", do=do)
        table[lang] = {name: (value or "").strip() for name, value in row.items()}
    if rows and not any(table.values()):
        found.add("the file has no features", where=path, do="add a column for each feature, such as script or family")
    found.raise_any()
    return table


def read_rates(path: str, column: str) -> list[Rate]:
    """A csv with the columns `source`, `target` and `column`; rows without a value are left out.

    Raises:
        ConfigError: every bad row. UserError: no such file, or columns are missing.
    """
    found, rates = Collector(), []
    for number, row in _read(path, "--rates", ["source", "target", column]):
        written = (row[column] or "").strip()
        if not written:
            continue
        try:
            rates.append(Rate(row["source"].strip(), row["target"].strip(), float(written)))
        except ValueError:
            found.add(f"{column} is not a number: {written}", where=f"{path}:{number}", do="write a number, or nothing")
    found.raise_any()
    return rates


def _read(path: str, option: str, needed: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """(line, row) of a csv."""
    file = Path(path)
    if not file.is_file():
        raise UserError(f"file {path} not found", where=option, do="check the path")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError("the file is not UTF-8", where=path, do="save it as UTF-8") from error
    reader = csv.DictReader(text.splitlines())
    if absent := [name for name in needed if name not in (reader.fieldnames or [])]:
        has = ", ".join(reader.fieldnames or []) or "none"
        raise UserError(f"column {', '.join(absent)} is missing", where=f"{path}:1", do=f"add it; the file has {has}")
    rows = []
    for row in reader:
        if None in row or None in row.values():
            do = "write as many fields as the first line has, and quote commas"
            raise UserError("a row with too many or too few fields", where=f"{path}:{reader.line_num}", do=do)
        rows.append((reader.line_num, row))
    return rows


def compare_features(rates: Sequence[Rate], features: Features) -> list[Fields]:
    """A test for each question: do sources of the target's kind serve better than others, and do sources of one kind?

    Rates of a language in itself and of pooled sources are left out.

    Args:
        features: of every language that a rate has.

    Returns:
        A row for each feature with `group` "same" (source and target share the value) and for each of its values: `n`,
        `mean` of the group, `n_others`, `mean_others`, `t`, `p` and `p_bonferroni`. What is None is explained in `why`.

    Raises:
        UserError: a language has no features.
    """
    across = [rate for rate in rates if rate.source != rate.target and "+" not in rate.source]
    there = {lang for rate in across for lang in (rate.source, rate.target)}
    if absent := sorted(there - features.keys()):
        do = "add a row for each language"
        raise UserError(f"no features for {', '.join(absent)}", where="--features", do=do)
    rows = []
    for name in next(iter(features.values()), {}):
        of = {lang: features[lang][name] for lang in there}
        rows.append(_test(name, "same", across, [of[rate.source] == of[rate.target] for rate in across]))
        values = sorted({of[rate.source] for rate in across})
        for value in values if len(values) > 1 else []:
            rows.append(_test(name, value, across, [of[rate.source] == value for rate in across]))
    tests = sum(row["p"] is not None for row in rows)
    for row in rows:
        row["p_bonferroni"] = None if row["p"] is None else min(1.0, tests * row["p"])
    return rows


def _test(name: str, group: str, rates: Sequence[Rate], inside: Sequence[bool]) -> Fields:
    mask = np.array(inside, dtype=bool)
    values = np.array([rate.value for rate in rates], dtype=np.float64)
    one, other = values[mask], values[~mask]
    row: Fields = {
        "feature": name, "group": group, "n": len(one), "mean": float(one.mean()) if len(one) else None,
        "n_others": len(other), "mean_others": float(other.mean()) if len(other) else None,
    }  # fmt: skip
    if min(len(one), len(other)) < 2 or (np.ptp(one) == 0 and np.ptp(other) == 0):
        why = "each group needs two rates" if min(len(one), len(other)) < 2 else "the rates do not vary"
        return row | {"t": None, "p": None, "why": {"p": why}}
    found = ttest_ind(one, other, equal_var=False, alternative="greater")
    return row | {"t": float(found.statistic), "p": float(found.pvalue)}
