"""What a run's win rates say, in sentences: the head of the page and the end of `icr iterate`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from eval.clusters import Bounds
from eval.rates import LANGUAGE_FALL
from eval.terms import describe_judge
from icr.base.fields import Fields
from icr.report.numbers import listed, number, share
from icr.report.results import Results, Round, interval


def findings(results: Results) -> list[str]:
    """What the win rates of the last judged round say, in sentences."""
    if not results.compared:
        return []
    last = results.compared[-1]
    assert last.summary is not None
    average, range_ = last.judged("average"), interval(last.judged("average"), "win_rate")
    sentences = []
    if average.get("win_rate") is not None:
        between = f" (95 % interval {number(range_[0])} to {number(range_[1])})" if range_ else ""
        sentences.append(
            f"After round {last.number} the policy's win rate against {baseline_name(last.summary)} is "
            f"{number(average['win_rate'])} % on average over {len(last.summary['languages'])} languages{between}, "
            f"as judged by {describe_judge(last.summary)}."
        )
    sides = group_by_side(results, last)
    for side in ("above", "below"):
        if sides[side]:
            sentences.append(f"The whole interval is {side} 50 % in {listed(sides[side])}.")
    if sides["both"]:
        sentences.append(f"In {listed(sides['both'])} the interval contains 50 %: no difference is shown.")
    return sentences


def side_of(bounds: Bounds) -> Literal["above", "below", "both"]:
    """Where a win rate's whole interval is, seen from 50 %; `both`: it contains 50."""
    return "above" if bounds[0] > 50 else "below" if bounds[1] < 50 else "both"


def group_by_side(results: Results, last: Round) -> dict[str, list[str]]:
    """`above`, `below`, `both`, and `none` without an interval → names of the languages that a round was judged in."""
    sides: dict[str, list[str]] = {"above": [], "below": [], "both": [], "none": []}
    for language in results.languages:
        row = last.judged(language.code)
        if bounds := interval(row, "win_rate"):
            sides[side_of(bounds)].append(language.name)
        elif row:
            sides["none"].append(language.name)
    return sides


def right_languages(results: Results, before: Round, after: Round) -> list[tuple[str, float, float]]:
    """(language, share of answers in it before, after), where both are known."""
    found = []
    for language in results.languages:
        first, last = (r.judged(language.code).get("right_language") for r in (before, after))
        if first is not None and last is not None:
            found.append((language.name, first, last))
    return found


def has_fallen(before: float, after: float) -> bool:
    """Whether a share of answers in the right language has fallen by more than LANGUAGE_FALL."""
    return after < before - LANGUAGE_FALL


def baseline_name(summary: Fields) -> str:
    baseline = str(summary.get("baseline", "the baseline"))
    return "round 0's own answers" if baseline == "round-0" else f"the answers of {Path(baseline).name}"


def conclude(results: Results, run: str, *, demo: bool = False) -> list[str]:
    """Three lines for the end of a run: what was shown, how sure it is, what to do next. Empty before a comparison.

    Args:
        run: the run folder, as the user can type it.
        demo: it is the quickstart; a user's own model comes next.
    """
    if not results.compared:
        return []
    last, baseline = results.compared[-1], results.judged[0]
    assert last.summary is not None
    average, languages = last.judged("average"), len(last.summary["languages"])
    if average.get("win_rate") is None:
        return []
    bounds = interval(average, "win_rate")
    shown = (
        f"round {last.number} wins {number(average['win_rate'])} % of comparisons with "
        f"{baseline_name(last.summary)}, on average over {languages} languages"
    )
    then = "icr init writes a config for your own model" if demo else f"icr chat {run} talks to the last one"
    return [
        f"shown: {shown}",
        f"how sure: {_sureness(bounds, why_no_interval(average))}{_language_falls(results, baseline, last)}",
        f"next: icr best {run} says which round to take; {then}",
    ]


def why_no_interval(average: Fields) -> str:
    """Of a row of a summary without an interval; one of an older icr does not say why."""
    return str(average.get("why", {}).get("win_rate_interval", "the summary has none"))


def _sureness(bounds: Bounds | None, why: str) -> str:
    if bounds is None:
        return f"there is no interval: {why}"
    between = f"95 % interval over prompts: {number(bounds[0])} to {number(bounds[1])}"
    says = {
        "above": "all above 50: better than before",
        "below": "all below 50: worse than before",
        "both": "with 50 in it: no difference is shown",
    }
    return f"{between}, {says[side_of(bounds)]}"


def _language_falls(results: Results, before: Round, after: Round) -> str:
    known = right_languages(results, before, after)
    falls = [f"{name} ({share(first)} → {share(last)})" for name, first, last in known if has_fallen(first, last)]
    return f"; but fewer answers are in the right language in {listed(falls)}" if falls else ""
