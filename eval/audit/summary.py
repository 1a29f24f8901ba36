"""An audit's figures, from verdicts: per language and on average, each with its 95 % interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean

import numpy as np

from eval.audit.estimators import Floats, agreement, correct, kappa, regress
from eval.audit.people import Labels
from eval.audit.verdicts import Evaluated, Judged
from eval.clusters import FEWEST, PERCENT, Bounds, Part, estimate, few
from icr.base.fields import Fields

BIASES = ("position", "verbosity", "language")
"""What a verdict may depend on, in points: how much more the answer that is shown first gets than half; how much an
answer gets for each 100 characters more; how much it gets for being in the wrong language."""
UNITS: dict[str, Bounds | None] = {
    "orders_agree": PERCENT,
    "repeats_agree": PERCENT,
    "people_agree": PERCENT,
    "orders_kappa": (-1.0, 1.0),
    "repeats_kappa": (-1.0, 1.0),
    "people_kappa": (-1.0, 1.0),
    "labels_alone": PERCENT,
    "corrected": PERCENT,
    "judge_alone": PERCENT,
}
"""Bounds of the figures that have some."""
Repeats = Mapping[str, Sequence[Mapping[str, Mapping[str, float]]]]
"""Language → of each time that the judge was asked again: prompt id → order → preference. A prompt that it was asked
about and that has no verdict is there, without an order."""


@dataclass
class Figures:
    """One language's figures by name: a part, or the reason why there is none."""

    parts: dict[str, Part | str]
    most_df: dict[str, float] = field(default_factory=dict)
    counts: dict[str, object] = field(default_factory=dict)


def audit(evaluated: Evaluated, labels: Labels | None = None, repeats: Repeats | None = None) -> Fields:
    """All figures: `languages` and `average`, each with {value, se, low, high, n, why} by name.

    Biases and rates are in points and percent, κ from −1 to 1. An average is over the languages that have the figure,
    which its `languages` names.

    Args:
        labels: what people say; adds agreement with them, biases against them, and the corrected win rate.
        repeats: what the judge said when it was asked again; adds how often it says the same. If it was asked about
            all prompts again, the win rate is corrected by the mean of all that it said.
    """
    again = {lang: (repeats or {}).get(lang) for lang in evaluated.languages}
    figures = {lang: _language(items, again[lang]) for lang, items in evaluated.languages.items()}
    preferences = {lang: _preferences(items, again[lang] or ()) for lang, items in evaluated.languages.items()}
    for lang, of_lang in (labels or {}).items():
        elsewhere = _elsewhere(lang, preferences)
        _add_people(figures[lang], evaluated.languages[lang], of_lang, preferences[lang], elsewhere)
    names = list(dict.fromkeys(name for of in figures.values() for name in of.parts))
    return {
        "judge": evaluated.summary["judge"],
        "baseline": evaluated.summary["baseline"],
        "orders": evaluated.summary["orders"],
        "languages": {lang: {**of.counts, **_shown(of, names)} for lang, of in figures.items()},
        "average": {name: _average(name, figures) for name in names},
    }


def _shown(figures: Figures, names: Sequence[str]) -> Fields:
    return {name: _one(name, figures) for name in names if name in figures.parts}


def _one(name: str, figures: Figures) -> Fields:
    part = figures.parts[name]
    if isinstance(part, str):
        return {"value": None, "why": part}
    return _estimate(name, [part], figures.most_df.get(name, np.inf))


def _estimate(name: str, parts: Sequence[Part], most_df: float) -> Fields:
    """Wilson's interval where the value has bounds; a corrected rate may be outside them, and has t's."""
    bounds = UNITS.get(name)
    value = sum(part.value for part in parts) / len(parts)
    inside = bounds is not None and bounds[0] <= value <= bounds[1]
    return asdict(estimate(parts, bounds if inside else None, most_df))


def _average(name: str, figures: Mapping[str, Figures]) -> Fields:
    there = {lang: of for lang, of in figures.items() if isinstance(of.parts.get(name), Part)}
    if not there:
        return {"value": None, "why": "no language has it", "languages": []}
    most_df = min(of.most_df.get(name, np.inf) for of in there.values())
    parts = [part for of in there.values() if isinstance(part := of.parts[name], Part)]
    return {**_estimate(name, parts, most_df), "languages": list(there)}


def _language(
    items: Sequence[Judged],
    repeats: Sequence[Mapping[str, Mapping[str, float]]] | None,
) -> Figures:
    asked = [item for item in items if not item.identical]
    found = Figures(
        dict(biases([(item, order, 100 * value) for item in asked for order, value in item.scored])),
        counts={
            "n": len(asked),
            "identical": len(items) - len(asked),
            "verdicts": sum(len(item.scored) for item in asked),
            "unscored": sum(len(item.verdicts) - len(item.scored) for item in asked),
            "wrong": sum(item.wrong != 0 for item in asked),
        },
    )
    both = {item.id: [(label(of[0][1]), label(of[1][1]))] for item in asked if len(of := item.scored) == 2}
    found.parts |= _agreements("orders", both, "no prompt has a verdict in both orders")
    if repeats is not None:
        again = _again(asked, repeats)
        found.parts |= _agreements("repeats", again, "no verdict was given again")
        found.counts["repeated"] = sum(map(len, again.values()))
        found.counts["askings"] = 1 + len(repeats) if _is_whole(asked, repeats) else 1
    return found


def label(preference: float) -> int:
    """0: lost, 1: drawn, 2: won."""
    return 1 if preference == 0.5 else 2 * int(preference > 0.5)


def biases(rows: Sequence[tuple[Judged, str, float]]) -> dict[str, Part | str]:
    """What verdicts depend on besides the answers' worth, in points, estimated together for one language:

        y = b₀ + b₁·(+1 if the model's answer is first, −1 if second) + b₂·Δcharacters/100 + b₃·Δwrong language + ε

    b₁ is how much more than half the answer that is shown first gets; b₂ is for each 100 characters that an answer is
    longer; b₃ is for an answer in the wrong language beside one in the right language. A variable that differs from 0
    in fewer than six prompts is left out.

    Args:
        rows: (prompt with its answers, order, value in points).
    """
    columns = {
        "position": [1.0 if order == "policy-first" else -1.0 for _, order, _ in rows],
        "verbosity": [item.longer for item, _, _ in rows],
        "language": [float(item.wrong) for item, _, _ in rows],
    }
    ids = [item.id for item, _, _ in rows]
    found: dict[str, Part | str] = {}
    for name, values in columns.items():
        moved = len({id for id, value in zip(ids, values, strict=True) if value})
        if moved < FEWEST:
            found[name] = NOT_THERE[name].format(moved) if len(set(ids)) >= FEWEST else few(len(set(ids)))
    used = [name for name in BIASES if name not in found]
    if not used:
        return found
    x: Floats = np.array([[1.0] * len(ids), *(columns[name] for name in used)]).T
    if np.linalg.matrix_rank(x) < x.shape[1]:
        return found | dict.fromkeys(used, "position, lengths and languages cannot be told apart")
    try:
        parts = regress(x, np.array([value for _, _, value in rows]), ids)[1:]
    except ValueError as error:
        return found | dict.fromkeys(used, str(error))
    return found | dict(zip(used, parts, strict=True))


NOT_THERE = {
    "position": "6 prompts are needed, and {} were judged",
    "verbosity": "6 prompts with answers of different lengths are needed, and there are {}",
    "language": "6 prompts with one answer in the wrong language are needed, and there are {}",
}


def _agreements(name: str, pairs: Mapping[str, Sequence[tuple[int, int]]], nothing: str) -> dict[str, Part | str]:
    if not pairs:
        return {f"{name}_agree": nothing, f"{name}_kappa": nothing}
    return {
        f"{name}_agree": agreement(pairs),
        f"{name}_kappa": kappa(pairs) or "one of the two always gives the same verdict",
    }


def _again(
    items: Sequence[Judged], repeats: Sequence[Mapping[str, Mapping[str, float]]]
) -> dict[str, list[tuple[int, int]]]:
    """The first verdict beside each later one on the same question."""
    pairs: dict[str, list[tuple[int, int]]] = {}
    for item in items:
        of = [
            (label(first), label(again[item.id][order]))
            for order, first in item.scored
            for again in repeats
            if order in again.get(item.id, {})
        ]
        if of:
            pairs[item.id] = of
    return pairs


def _is_whole(items: Sequence[Judged], repeats: Sequence[Mapping[str, Mapping[str, float]]]) -> bool:
    """Whether the judge was asked again about all prompts that have a verdict."""
    asked = [item.id for item in items if item.preference is not None and not item.identical]
    return all(id in again for again in repeats for id in asked)


def _preferences(items: Sequence[Judged], repeats: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, float]:
    """Prompt id → what the judge says, of the prompts that have a verdict.

    If it was asked about all of them again, it is the mean of all times that have a verdict in every order: in it, the
    coins that a judge throws weigh less.
    """
    first = {item.id: p for item in items if (p := item.preference) is not None}
    if not _is_whole(items, repeats):
        return first
    orders = {item.id: len(item.verdicts) for item in items if not item.identical}
    said = {
        id: [fmean(of.values()) for again in repeats if len(of := again.get(id, {})) == orders.get(id)] for id in first
    }
    return {id: fmean([value, *said[id]]) for id, value in first.items()}


def _elsewhere(lang: str, preferences: Mapping[str, Mapping[str, float]]) -> dict[str, float] | None:
    """Prompt id → the mean of what the judge says of its translations; where it has none, the mean of all that have.

    None where no prompt of this language is in another one.
    """
    others = [of for other, of in preferences.items() if other != lang]
    said = {id: [of[id] for of in others if id in of] for id in preferences[lang]}
    found = {id: fmean(of) for id, of in said.items() if of}
    if not found:
        return None
    mean = fmean(found.values())
    return {id: found.get(id, mean) for id in preferences[lang]}


def _add_people(
    found: Figures,
    items: Sequence[Judged],
    labels: Mapping[str, float],
    preferences: Mapping[str, float],
    elsewhere: Mapping[str, float] | None,
) -> None:
    """Agreement with people, biases against them, and the win rate that they correct."""
    people = {id: value for id, value in labels.items() if id in preferences}
    found.counts |= {"labelled": len(people), "labelled_without_verdict": len(labels) - len(people)}
    first = _preferences(items, ())
    pairs = {id: [(label(first[id]), label(value))] for id, value in people.items()}
    found.parts |= _agreements("people", pairs, "no labelled prompt has a verdict")
    rows = [
        (item, order, 100 * (value - people[item.id]))
        for item in items
        if item.id in people and not item.identical
        for order, value in item.scored
    ]
    found.parts |= {f"{name}_to_people": part for name, part in biases(rows).items()}
    if len(people) < FEWEST:
        reason = f"{few(len(people))} by people"
        found.parts |= dict.fromkeys(("judge_alone", "labels_alone", "corrected"), reason)
        return
    judge = {id: 100 * value for id, value in preferences.items()}
    others = {id: 100 * value for id, value in elsewhere.items()} if elsewhere else None
    corrected = correct({id: 100 * value for id, value in people.items()}, judge, others)
    found.parts |= {
        "judge_alone": Part.of(judge),
        "labels_alone": Part.of({id: 100 * value for id, value in people.items()}),
        "corrected": corrected.part,
    }
    found.most_df["corrected"] = len(people) - 1
    found.counts |= {
        "power": corrected.power,
        "power_elsewhere": corrected.elsewhere,
        "correlation": corrected.correlation,
    }
