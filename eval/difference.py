"""Is one model better than another? The difference on the same items, with its paired bootstrap interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from eval.folders import summary_path
from eval.mtbench.summary import question_grades
from eval.xalpaca.summary import item_preference, orders_of_items
from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.files import read_object, read_rows

if TYPE_CHECKING:
    from eval.xalpaca.pairwise import VerdictRow

Values = NDArray[np.float64]
Items = dict[str, dict[str, float]]
"""Language → item → value."""
RESAMPLES = 10_000


class Interval(TypedDict):
    """A difference with its 95 % interval; the bounds are None for fewer than two items."""

    difference: float
    low: float | None
    high: float | None


class MeanDifference(Interval):
    """The second minus the first over the items that both have."""

    n: int
    first: float
    second: float


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


def compare(first: Path, second: Path, benchmark: str) -> Difference:
    """How `second` differs from `first` on the items that both have, per language and on average.

    Args:
        first, second: evaluation folders, of rounds or of single models.
        benchmark: a key of READERS.

    Raises:
        UserError: a folder without that benchmark, no items in common, or two that were judged differently.
    """
    read, unit = READERS[benchmark]
    one, two = read(first), read(second)
    _same_terms(first, second, benchmark)
    languages: dict[str, LanguageDifference] = {}
    differences: dict[str, Values] = {}
    for lang in [lang for lang in one if lang in two]:
        shared = [item for item in one[lang] if item in two[lang]]
        if not shared:
            continue
        a, b = (np.array([of[lang][item] for item in shared]) for of in (one, two))
        differences[lang] = b - a
        languages[lang] = {
            "n": len(shared),
            "first": float(a.mean()),
            "second": float(b.mean()),
            "left_out": len(one[lang].keys() ^ two[lang].keys()),
            **_interval([differences[lang]]),
        }
    if not languages:
        raise UserError(
            "these two have no judged items in common",
            where=f"{first} and {second}",
            do="judge both on the same prompts",
        )
    average: MeanDifference = {
        "first": float(np.mean([row["first"] for row in languages.values()])),
        "second": float(np.mean([row["second"] for row in languages.values()])),
        "n": sum(row["n"] for row in languages.values()),
        **_interval(list(differences.values())),
    }
    return {"benchmark": benchmark, "unit": unit, "languages": languages, "average": average}


def _interval(strata: Sequence[Values]) -> Interval:
    """The mean over languages of the mean differences, and its 95 % bootstrap interval: items drawn within each."""

    def statistic(*samples: Values, axis: int = -1) -> Values:
        mean: Values = np.mean([sample.mean(axis=axis) for sample in samples], axis=0)
        return mean

    value = float(statistic(*strata))
    if min(map(len, strata)) < 2:
        return {"difference": value, "low": None, "high": None}
    if all(np.ptp(s) == 0 for s in strata):
        return {"difference": value, "low": value, "high": value}
    result = bootstrap(
        strata, statistic, n_resamples=RESAMPLES, method="percentile", vectorized=True, rng=np.random.default_rng(0)
    )
    return {"difference": value, "low": float(result.confidence_interval.low),
            "high": float(result.confidence_interval.high)}  # fmt: skip


def _preferences(folder: Path) -> Items:
    """Win rate: 100 × the policy's preference per prompt. Round 0 against itself has 50 everywhere."""
    files = sorted((folder / "verdicts").glob("*.parquet"))
    if files:
        return {file.stem: _by_prompt(read_rows(file)) for file in files}
    answers = sorted((folder / "answers").glob("*.parquet"))
    if _summary(folder, "xalpaca").get("judge", "").startswith("none") and answers:
        return {file.stem: {row["prompt_id"]: 50.0 for row in read_rows(file)} for file in answers}
    raise UserError("no verdicts found", where=str(folder), do="name an output folder of icr judge xalpaca")


def _by_prompt(rows: Sequence[VerdictRow]) -> dict[str, float]:
    return {item: 100 * item_preference(orders) for item, orders in orders_of_items(rows).items()}


def _grades(folder: Path) -> Items:
    """MT-Bench: the mean grade of each question's scored turns."""
    files = sorted((folder / "mtbench" / "verdicts").glob("*.parquet"))
    if not files:
        raise UserError("no grades found", where=str(folder), do="name an output folder of icr judge mtbench")
    return {file.stem: question_grades(read_rows(file)) for file in files}


READERS: Mapping[str, tuple[Callable[[Path], Items], str]] = {
    "xalpaca": (_preferences, "points of win rate"),
    "mtbench": (_grades, "grade points"),
}


def _summary(folder: Path, benchmark: str) -> Fields:
    path = summary_path(folder, benchmark)
    try:
        return read_object(path) if path.is_file() else {}
    except ValueError as error:
        do = "restore the file, or judge again into another folder"
        raise UserError(f"the summary cannot be read: {error}", where=str(path), do=do) from error


def _same_terms(first: Path, second: Path, benchmark: str) -> None:
    """Values by two judges, or against two baselines, cannot be subtracted."""
    one, two = _summary(first, benchmark), _summary(second, benchmark)
    for key in ("judge", "baseline"):
        values = [str(s[key]) for s in (one, two) if s.get(key)]
        if key == "judge":
            values = [v for v in values if not v.startswith("none")]
        if len(set(values)) > 1:
            raise UserError(
                f"the {key} differs: {values[0]} and {values[1]}",
                where=f"{first} and {second}",
                do=f"judge both with the same {key}",
            )
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
