"""What a run's win rates say, in sentences: the head of the page and the end of `icr iterate`."""

from __future__ import annotations

from pathlib import Path

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
    sides: dict[str, list[str]] = {"above": [], "below": [], "both": []}
    for language in results.languages:
        bounds = interval(last.judged(language.code), "win_rate")
        if bounds:
            sides["above" if bounds[0] > 50 else "below" if bounds[1] < 50 else "both"].append(language.name)
    for side in ("above", "below"):
        if sides[side]:
            sentences.append(f"The whole interval is {side} 50 % in {listed(sides[side])}.")
    if sides["both"]:
        sentences.append(f"In {listed(sides['both'])} the interval contains 50 %: no difference is shown.")
    return sentences


def baseline_name(summary: Fields) -> str:
    baseline = str(summary.get("baseline", "the baseline"))
    return "round 0's own answers" if baseline == "round-0" else f"the answers of {Path(baseline).name}"


def conclude(results: Results, run: str) -> list[str]:
    """Three lines for the end of a run: what was shown, how sure it is, what to do next. Empty before a comparison.

    Args:
        run: the run folder, as the user can type it.
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
    return [
        f"shown: {shown}",
        f"how sure: {_sureness(bounds)}{_language_falls(results, baseline, last)}",
        f"next: icr best {run} says which round to take; icr init writes a config for your own model",
    ]


def _sureness(bounds: tuple[float, float] | None) -> str:
    if bounds is None:
        return "there is no interval, because there are too few prompts"
    between = f"95 % interval over prompts: {number(bounds[0])} to {number(bounds[1])}"
    if bounds[0] > 50:
        return f"{between}, all above 50: better than chance"
    if bounds[1] < 50:
        return f"{between}, all below 50: worse than before"
    return f"{between}, with 50 in it: no difference is shown"


def _language_falls(results: Results, before: Round, after: Round) -> str:
    falls = []
    for language in results.languages:
        first, last = (r.judged(language.code).get("right_language") for r in (before, after))
        if first is not None and last is not None and last < first - LANGUAGE_FALL:
            falls.append(f"{language.name} ({share(first)} → {share(last)})")
    return f"; but fewer answers are in the right language in {listed(falls)}" if falls else ""
