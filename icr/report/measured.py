"""What a run's judge stages found besides win rates, and whether a round differs from the one before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from eval.clusters import excludes
from eval.difference import READERS, Difference, compare
from eval.folders import read_summary, summary_path
from eval.mtbench.summary import GradeRow, mtbench_rows
from eval.nlp.table import TaxRow, nlp_table
from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.rundir import RunDir


@dataclass
class Measured:
    """Rows for the report and the terminal; empty where nothing was measured."""

    mtbench: list[GradeRow] = field(default_factory=list)
    mtbench_judge: str = ""
    accuracy: dict[int, Fields] = field(default_factory=dict)
    """Round → summary of `eval.accuracy`."""
    nlp: list[TaxRow] = field(default_factory=list)
    differences: list[tuple[int, int, Difference]] = field(default_factory=list)
    """(earlier round, later round, how the later one differs)."""
    marks: dict[str, str] = field(default_factory=dict)
    """See `marks`."""
    missing: list[str] = field(default_factory=list)


def measure(run: RunDir) -> Measured:
    """Read what the rounds' judge folders hold; what cannot be read is named in `missing`."""
    found = Measured()
    folders = {r.number: r.judge for r in run.rounds()}
    grades: dict[int, Fields] = {}
    for number, folder in folders.items():
        for name, summaries in (("mtbench", grades), ("accuracy", found.accuracy)):
            path = summary_path(folder, name)
            if path.is_file():
                try:
                    summaries[number] = read_summary(path)
                except (OSError, ValueError) as error:
                    found.missing.append(f"{path.relative_to(run.path)} cannot be read: {error}")
    if grades:
        found.mtbench = mtbench_rows(grades)
        found.mtbench_judge = next(iter(grades.values()))["judge"]
    nlp = {f"round {n}": folder for n, folder in folders.items() if summary_path(folder, "nlp").is_file()}
    if nlp:
        found.nlp = nlp_table(nlp)
    for benchmark in READERS:
        judged = [n for n, folder in folders.items() if summary_path(folder, benchmark).is_file()]
        for before, after in pairwise(judged):
            try:
                found.differences.append((before, after, compare(folders[before], folders[after], benchmark)))
            except UNREADABLE as error:
                found.missing.append(f"rounds {before} and {after} cannot be compared on {benchmark}: {error}")
    found.marks = marks({n: folder for n, folder in folders.items() if summary_path(folder, "xalpaca").is_file()})
    return found


UNREADABLE = (UserError, OSError, ValueError, KeyError)


def marks(folders: Mapping[int, Path]) -> dict[str, str]:
    """▲ or ▼ for every language, and the average, whose win rate has changed since the first judged round: the interval
    of the change over the same prompts excludes 0.

    Args:
        folders: of the judged rounds, by number.
    """
    if len(folders) < 2:
        return {}
    try:
        found = compare(folders[min(folders)], folders[max(folders)], "xalpaca")
    except UNREADABLE:
        return {}  # the differences from round to round say why
    rows = {**found["languages"], "average": found["average"]}
    return {
        code: "▲" if row["difference"] > 0 else "▼"
        for code, row in rows.items()
        if excludes(0, row["low"], row["high"])
    }
