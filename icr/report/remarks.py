"""What the page says below the rates: why a value is missing, what a fit had to do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from eval.rates import MISSING_FOR, reasons
from icr.report.numbers import listed
from icr.report.results import Results

WORDS = {
    "win_rate": "win rate",
    "lc_win_rate": "length-controlled win rate",
    "mean_length": "mean length",
    "position_bias": "measure of position bias",
}
"""Fields of summary.json in words; others are read as they are spelt."""


def remarks(results: Results) -> list[str]:
    """Remarks in the judge's summaries: why a value is missing, what a fit had to do. Each remark once."""
    names = {x.code: x.name for x in results.languages}
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for code, name in [*names.items(), ("average", "Average")]:
        for r in results.compared:
            row, said = r.judged(code), []
            said += [f"no {words(key)}; {_with_names(reason, names)}." for key, reason in reasons(row)]
            if row.get("one_order"):
                said.append(f"{row['one_order']} prompts were judged in one order only and count in no rate.")
            if row.get("lc_note"):
                said.append(f"{row['lc_note']}.")
            if row.get("shortened"):
                said.append(f"in {row['shortened']} comparisons the answers were shortened for the judge.")
            for remark in said:
                found[remark][name].append(str(r.number))
    return [f"{_places(of)}: {remark}" for remark, of in found.items()]


def _places(of: Mapping[str, list[str]]) -> str:
    """Languages with their rounds, in words."""
    return "; ".join(f"{name}, round{'s' if len(at) > 1 else ''} {listed(at)}" for name, at in of.items())


def _with_names(reason: str, names: Mapping[str, str]) -> str:
    """A reason of a summary, with the names of the languages that it lists by their codes."""
    before, missing, codes = reason.partition(MISSING_FOR)
    return f"{before}{missing}{listed([names.get(code, code) for code in codes.split(', ')])}" if missing else reason


def words(key: str) -> str:
    """A field of a summary, or a count, as a reader calls it."""
    if key.endswith("_se"):
        return f"standard error of the {words(key.removesuffix('_se'))}"
    return WORDS.get(key, key.replace("_", " "))
