"""Is one model better than another? The difference on the same items, with its 95 % interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

import numpy as np

from eval.clusters import Part, estimate
from eval.folders import evaluation_inside
from eval.mtbench.summary import question_grades
from eval.terms import check_terms, read_summary_of, unjudged
from eval.xalpaca.items import read_items
from icr.base.errors import UserError
from icr.base.files import check_folder, read_rows

if TYPE_CHECKING:
    from eval.xalpaca.pairwise import VerdictRow

Items = dict[str, dict[str, float]]
"""Language → item → value."""


class MeanDifference(TypedDict):
    """The second minus the first over the items that both have, with its 95 % interval (`eval.clusters`)."""

    n: int
    first: float
    second: float
    difference: float
    low: float | None
    high: float | None
    why: str | None
    """Why there is no interval."""


class LanguageDifference(MeanDifference):
    """The same for one language."""

    left_out: int
    """Items that only one of them has."""


class Difference(TypedDict):
    """How one evaluation differs from another."""

    benchmark: str
    unit: str
    languages: dict[str, LanguageDifference]
    average: MeanDifference
    """Over these languages; a prompt and its translations are one draw."""
    only_first: list[str]
    """Languages that the second has no items of the first's in."""
    only_second: list[str]


def compare(first: Path, second: Path, benchmark: str) -> Difference:
    """How `second` differs from `first` on the items that both have, per language and on average.

    Args:
        first, second: evaluation folders, of rounds or of single models.
        benchmark: a key of READERS.

    Raises:
        UserError: a folder without that benchmark, no items in common, or two that were judged differently.
    """
    read, unit = READERS[benchmark]
    for folder in (first, second):
        check_folder(folder)
    one, two = read(first), read(second)
    check_terms(first, second, benchmark)
    _same_answers_of_round_0(first, second, benchmark)
    shared = {lang: [item for item in one[lang] if item in two[lang]] for lang in one if lang in two}
    shared = {lang: items for lang, items in shared.items() if items}
    if not shared:
        raise UserError(
            "these two have no judged items in common",
            where=f"{first} and {second}",
            do="judge both on the same prompts",
        )
    parts: dict[str, Part] = {}
    languages: dict[str, LanguageDifference] = {}
    for lang, items in shared.items():
        parts[lang] = Part.of({item: two[lang][item] - one[lang][item] for item in items})
        means = [float(np.mean([of[lang][item] for item in items])) for of in (one, two)]
        left = len(one[lang].keys() ^ two[lang].keys())
        languages[lang] = {**_difference(len(items), means, [parts[lang]]), "left_out": left}
    means = [float(np.mean([row[key] for row in languages.values()])) for key in SIDES]
    return {
        "benchmark": benchmark,
        "unit": unit,
        "languages": languages,
        "average": _difference(sum(map(len, shared.values())), means, list(parts.values())),
        "only_first": [lang for lang in one if lang not in shared],
        "only_second": [lang for lang in two if lang not in shared],
    }


SIDES: tuple[Literal["first", "second"], ...] = ("first", "second")


def _difference(n: int, means: Sequence[float], parts: Sequence[Part]) -> MeanDifference:
    found = estimate(parts)
    return {
        "n": n,
        "first": means[0],
        "second": means[1],
        "difference": found.value,
        "low": found.low,
        "high": found.high,
        "why": found.why,
    }


def _preferences(folder: Path) -> Items:
    """Win rate: 100 × the policy's preference per prompt. Round 0 against itself has 50 everywhere."""
    files = sorted((folder / "verdicts").glob("*.parquet"))
    if files:
        return {file.stem: _by_prompt(read_rows(file)) for file in files}
    answers = sorted((folder / "answers").glob("*.parquet"))
    if unjudged(read_summary_of(folder, "xalpaca")) and answers:
        return {file.stem: {row["prompt_id"]: 50.0 for row in read_rows(file)} for file in answers}
    inside = evaluation_inside(folder, "xalpaca")
    do = f"name {inside}" if inside else "name an output folder of icr judge xalpaca"
    raise UserError("no verdicts found", where=str(folder), do=do)


def _by_prompt(rows: Sequence[VerdictRow]) -> dict[str, float]:
    return {item: 100 * preference for item, preference in read_items(rows).preferences.items()}


def _grades(folder: Path) -> Items:
    """MT-Bench: the mean grade of each question's scored turns."""
    files = sorted((folder / "mtbench" / "verdicts").glob("*.parquet"))
    if not files:
        inside = evaluation_inside(folder, "mtbench")
        do = f"name {inside}" if inside else "name an output folder of icr judge mtbench"
        raise UserError("no grades found", where=str(folder), do=do)
    return {file.stem: question_grades(read_rows(file)) for file in files}


READERS: Mapping[str, tuple[Callable[[Path], Items], str]] = {
    "xalpaca": (_preferences, "points of win rate"),
    "mtbench": (_grades, "grade points"),
}


def _same_answers_of_round_0(first: Path, second: Path, benchmark: str) -> None:
    """Each run has its own round 0, which its rounds are compared with."""
    one, two = (read_summary_of(folder, benchmark) for folder in (first, second))
    answers = [folder.resolve().parent.parent / "round-0" / "judge" / "answers" for folder in (first, second)]
    of_two_runs = one.get("baseline") == two.get("baseline") == "round-0" and answers[0] != answers[1]
    if of_two_runs and _answers(answers[0]) != _answers(answers[1]):
        raise UserError(
            "each was compared with its own run's answers of round 0, and those differ",
            where=f"{first} and {second}",
            do="compare both with the same folder of answers (judge.baseline, --baseline)",
        )


def _answers(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """(prompt id, answer) of each language."""
    columns = ["prompt_id", "response"]
    return {
        file.stem: sorted((row["prompt_id"], row["response"]) for row in read_rows(file, columns))
        for file in folder.glob("*.parquet")
    }
