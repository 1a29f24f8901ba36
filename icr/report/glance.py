"""The head of a run's page: did it get better, in which languages, how sure is that, and at what cost.

And that of an audit: may the judge be believed?
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from eval.clusters import excludes
from eval.terms import describe_judge
from icr.base.fields import Fields
from icr.report.findings import baseline_name, group_by_side, has_fallen, right_languages, side_of, why_no_interval
from icr.report.measured import Measured
from icr.report.numbers import listed, number, share
from icr.report.results import Results, Round, interval

NAMED = 4
"""Languages that a tile names; more are counted."""


@dataclass(frozen=True)
class Tile:
    """A question that a reader has, its answer in a few words, and what that rests on."""

    question: str
    answer: str
    lines: list[str] = field(default_factory=list)
    tone: str = ""
    """`good`, `bad`, or neither."""


def glance(results: Results, measured: Measured) -> list[Tile]:
    """Four tiles; empty before a comparison."""
    if not results.compared:
        return []
    first, last = results.judged[0], results.compared[-1]
    assert last.summary is not None
    return [
        _better(last, last.summary),
        _where(results, last),
        _how_sure(results, last, last.summary),
        _cost(results, first, last, measured),
    ]


def _better(last: Round, summary: Fields) -> Tile:
    average, bounds = last.judged("average"), interval(last.judged("average"), "win_rate")
    question = "Did it get better?"
    if average.get("win_rate") is None:
        return Tile(question, "Not known", ["There is no average win rate."])
    lines = [
        f"After round {last.number} it wins {number(average['win_rate'])} % against {baseline_name(summary)}; "
        "50 would be no change."
    ]
    if bounds is None:
        return Tile(question, "Not shown", [*lines, f"No interval: {why_no_interval(average)}."])
    lines.append(f"95 % interval: {number(bounds[0])} to {number(bounds[1])}.")
    answers = {"above": ("Yes", "good"), "below": ("No, it got worse", "bad"), "both": ("Not shown", "")}
    answer, tone = answers[side_of(bounds)]
    return Tile(question, answer, lines, tone)


def _where(results: Results, last: Round) -> Tile:
    sides = group_by_side(results, last)
    answer = _named(sides["above"]) if sides["above"] else "In none for sure"
    rest = {"below": "Worse", "both": "Not shown", "none": "No interval"}
    lines = [f"{word}: {_named(sides[side])}." for side, word in rest.items() if sides[side]]
    tone = "bad" if sides["below"] else "good" if sides["above"] else ""
    return Tile("In which languages?", answer, lines or ["The whole interval is above 50 in each."], tone)


def _named(names: list[str]) -> str:
    return listed(names) if len(names) <= NAMED else listed([*names[: NAMED - 1], f"{len(names) - NAMED + 1} more"])


def _how_sure(results: Results, last: Round, summary: Fields) -> Tile:
    """Of the judge, of the choice of prompts, and of length."""
    counts = [row["n"] for x in results.languages if (row := last.judged(x.code)) and row.get("n") is not None]
    prompts = "" if not counts else f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else str(counts[0])
    lines = [f"Judge: {describe_judge(summary)}."]
    lc, bounds = last.judged("average").get("lc_win_rate"), interval(last.judged("average"), "lc_win_rate")
    if lc is not None:
        between = f" ({number(bounds[0])} to {number(bounds[1])})" if bounds else ""
        lines.append(f"For answers of equal length: {number(lc)} %{between}.")
    return Tile("How sure is that?", f"{prompts} prompts per language" if prompts else "Not known", lines)


def _cost(results: Results, first: Round, last: Round, measured: Measured) -> Tile:
    """Length, language and other tasks, from the first judged round to the last one."""
    before, after = (r.judged("average").get("mean_length") for r in (first, last))
    lines, answer, tone = [], "Length is not known", ""
    if before and after:
        change = round(100 * (after / before - 1))
        answer = "Answers as long as before" if not change else f"Answers {abs(change)} % "
        answer += "" if not change else "longer" if change > 0 else "shorter"
        lines.append(f"{number(before, 0)} → {number(after, 0)} characters.")
    known = right_languages(results, first, last)
    falls = [f"{name} {share(a)} → {share(b)}" for name, a, b in known if has_fallen(a, b)]
    if falls:
        lines.append(f"Fewer answers in the right language: {_named(falls)}.")
        tone = "bad"
    elif known:
        lowest = min(known, key=lambda of: of[2])
        least = f"at least {share(lowest[2])} in each ({lowest[0]} {share(lowest[1])} → {share(lowest[2])})"
        lines.append(f"Right language: {'100 % in each' if lowest[2] == 1 else least}.")
    return Tile("At what cost?", answer, lines + list(_other_tasks(measured)), tone)


def _other_tasks(measured: Measured) -> Iterator[str]:
    grades = [grade for row in measured.mtbench if row["language"] == "average" and (grade := row["average"])]
    if len(grades) > 1:
        yield f"MT-Bench: {number(grades[0])} → {number(grades[-1])} of 10."
    last = [row for row in measured.nlp if row["label"] == measured.nlp[-1]["label"]]
    changes = [(row["change"], row["benchmark"]) for row in last if row["change"] is not None]
    if changes:
        change, name = min(changes)
        which = "largest fall" if change < 0 else "smallest rise"
        yield f"NLP tasks, {which}: {name} {number(100 * change, sign=True)} points."


def glance_at_judge(result: Fields) -> list[Tile]:
    """Of an audit, on average over the languages: what sways the judge, whom it agrees with, and what that changes."""
    average = result["average"]
    tiles = [
        _sways(average, "position", "Does the order sway it?", "what is shown first gets {} points"),
        _sways(average, "verbosity", "Does length sway it?", "100 characters more get {} points"),
    ]
    agrees = [
        f"{number(average[key]['value'])} % {with_whom}" for key, with_whom in AGREES.items() if _known(average, key)
    ]
    if agrees:
        tiles.append(Tile("Whom does it agree with?", agrees[-1], [f"{line}." for line in agrees[:-1]]))
    if _known(average, "corrected"):
        corrected = average["corrected"]
        lines = [f"By the judge alone: {number(average['judge_alone']['value'])} %."]
        if corrected.get("low") is not None:
            lines.append(f"95 % interval: {number(corrected['low'])} to {number(corrected['high'])}.")
        tiles.append(Tile("The win rate, corrected", f"{number(corrected['value'])} %", lines))
    return tiles


AGREES = {
    "repeats_agree": "with itself, asked again",
    "orders_agree": "with itself, in the other order",
    "people_agree": "with people",
}
"""A figure of an audit → whom the judge agrees with; the last one known is what matters most."""


def _known(average: Fields, key: str) -> bool:
    return average.get(key, {}).get("value") is not None


def _sways(average: Fields, key: str, question: str, says: str) -> Tile:
    found = average.get(key, {})
    if not _known(average, key):
        return Tile(question, "Not known", ["The figures say why."])
    value, low, high = found["value"], found.get("low"), found.get("high")
    line = says.format(number(value, sign=True))
    if low is None or high is None:
        return Tile(question, "Not shown", [f"{line.capitalize()}.", "There is no interval."])
    lines = [f"{line.capitalize()}.", f"95 % interval: {number(low, sign=True)} to {number(high, sign=True)}."]
    return Tile(question, "Yes", lines, "bad") if excludes(0, low, high) else Tile(question, "Not shown", lines)
