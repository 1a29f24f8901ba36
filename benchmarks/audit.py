"""Does an audit find what a judge was given? Planted biases and people's labels, simulated; about a minute.

    python -m benchmarks.audit [--simulations 200] [--seed 0] [--json]

Five languages with the same 200 prompts. What people say of a prompt correlates between its languages. A judge prefers
what people prefer, by a margin, and three things are planted: the answer that is shown first gets 10 points, every 100
characters more get 2 points, and an answer in the wrong language (a tenth) loses 10. One judge gives these shares
themselves, with noise, as label probabilities are; another gives a label that is drawn with them, once or several
times. People have labelled 60 prompts of each language.

Then, how much narrower the corrected interval is for judges that give the label that people give with some probability.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from eval.audit.estimators import correct
from eval.audit.summary import audit
from eval.audit.verdicts import Evaluated, Judged
from eval.clusters import Part, estimate
from eval.xalpaca.pairwise import ORDERS, VerdictRow
from icr.base.fields import Fields

Floats = NDArray[np.float64]
LANGUAGES = ("bn", "en", "es", "sw", "th")
PROMPTS = 200
LABELLED = 60
PLANTED = {"position": 10.0, "verbosity": 2.0, "language": -10.0}
"""In points."""
MARGIN = 0.2
"""Of the judge's preference for what people prefer; with all biases it stays within 0 … 1."""
LONGEST = 4.0
"""Hundreds of characters that an answer is longer, at most; a standard deviation is 3 before they are cut."""
NOISE = 0.03
WRONG = 0.1
"""Share of answers in the wrong language."""
WIN = 0.55
"""Of prompts that people prefer the model's answer to."""
COMMON = 0.6
"""With this probability a language's label of a prompt is the one that the prompt has in common."""
JUDGES = {"probabilities": (True, 1), "labels": (False, 1), "labels, 5 times": (False, 5)}
"""Name → whether the judge gives probabilities, and how often it is asked each question."""
AGREEMENTS = (0.75, 0.8, 0.85, 0.9, 0.95)
SIZES = (200, 400, 805)
"""Prompts of a language, of which `LABELLED` are labelled."""


class Row(TypedDict):
    """How often the interval of a figure held the true value."""

    judge: str
    figure: str
    truth: float
    mean: float
    """Of the estimates."""
    covered: float
    """By the intervals of single languages."""
    covered_average: float
    """By the interval of the average over languages."""


class Simulated(NamedTuple):
    """An evaluation, what the judge said when it was asked again, and what people say of each prompt."""

    evaluated: Evaluated
    repeats: dict[str, list[dict[str, dict[str, float]]]]
    people: dict[str, dict[str, float]]


def simulate(rng: np.random.Generator, soft: bool, times: int = 1) -> Simulated:
    """An evaluation by a judge with the planted biases, which is asked every question so many times."""
    common = rng.random(PROMPTS) < WIN
    found = Simulated(Evaluated(Path(), {"judge": "simulated", "baseline": "simulated", "orders": "both"}, {}), {}, {})
    languages: dict[str, list[Judged]] = {}
    for lang in LANGUAGES:
        wins = np.where(rng.random(PROMPTS) < COMMON, common, rng.random(PROMPTS) < WIN).astype(float)
        longer = np.clip(rng.normal(0, 3, PROMPTS), -LONGEST, LONGEST).round(2)
        wrong = (rng.random(PROMPTS) < WRONG).astype(int) - (rng.random(PROMPTS) < WRONG).astype(int)
        base = 0.5 + MARGIN * (2 * wins - 1) + (PLANTED["verbosity"] * longer + PLANTED["language"] * wrong) / 100
        shares = [base + sign * PLANTED["position"] / 100 for sign in (1, -1)]
        said = [_say(rng, share, soft) for share in shares]
        languages[lang] = [_judged(n, lang, longer[n], int(wrong[n]), [of[n] for of in said]) for n in range(PROMPTS)]
        found.repeats[lang] = [_again([_say(rng, share, soft) for share in shares]) for _ in range(1, times)]
        found.people[lang] = {str(n): float(win) for n, win in enumerate(wins)}
    return found._replace(evaluated=replace(found.evaluated, languages=languages))


def _say(rng: np.random.Generator, shares: Floats, soft: bool) -> Floats:
    if soft:
        return np.clip(shares + rng.normal(0, NOISE, len(shares)), 0, 1)
    return (rng.random(len(shares)) < shares).astype(float)


def _again(said: list[Floats]) -> dict[str, dict[str, float]]:
    return {str(n): {order: float(of[n]) for order, of in zip(ORDERS, said, strict=True)} for n in range(PROMPTS)}


def _judged(n: int, lang: str, longer: float, wrong: int, said: list[float]) -> Judged:
    verdicts = [
        VerdictRow(prompt_id=str(n), order=order, preference=float(value), reason=None, raw="", shortened=False)
        for order, value in zip(ORDERS, said, strict=True)
    ]
    return Judged(str(n), lang, "", "x" * round(1000 + 100 * longer), "y" * 1000, verdicts, wrong)


def sample_labels(rng: np.random.Generator, people: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """People's labels of the same prompts in all languages."""
    chosen = [str(n) for n in rng.choice(PROMPTS, LABELLED, replace=False)]
    return {lang: {id: of[id] for id in chosen} for lang, of in people.items()}


def runs(simulations: int, soft: bool, seed: int = 0, times: int = 1) -> list[Fields]:
    """The audits of so many simulated evaluations."""
    found = []
    for number in range(simulations):
        rng = np.random.default_rng([seed, soft, number])
        evaluated, repeats, people = simulate(rng, soft, times)
        found.append(audit(evaluated, sample_labels(rng, people), repeats if times > 1 else None))
    return found


def steady(simulations: int, agreement: float, prompts: int, seed: int = 0) -> float:
    """How much narrower the interval of one language is for a judge whose label of a prompt is people's with a
    probability, whatever the order, 0 to 1."""
    found = []
    for number in range(simulations):
        rng = np.random.default_rng([seed, number])
        wins = rng.random(prompts) < WIN
        says = np.where(rng.random(prompts) < agreement, wins, ~wins)
        judge = {str(n): 100.0 * value for n, value in enumerate(says)}
        people = {str(n): 100.0 * wins[n] for n in range(LABELLED)}
        corrected, alone = (estimate([part]).se for part in (correct(people, judge).part, Part.of(people)))
        assert corrected is not None and alone is not None
        found.append(1 - corrected / alone)
    return float(np.mean(found))


TRUTHS = PLANTED | {"corrected": 100 * WIN, "labels_alone": 100 * WIN}


def rows(judge: str, audits: list[Fields]) -> Iterator[Row]:
    for figure, truth in TRUTHS.items():
        singles = [of[figure] for found in audits for of in found["languages"].values()]
        averages = [found["average"][figure] for found in audits]
        yield {
            "judge": judge,
            "figure": figure,
            "truth": truth,
            "mean": float(np.mean([of["value"] for of in singles])),
            "covered": _covered(singles, truth),
            "covered_average": _covered(averages, truth),
        }


def _covered(found: list[Fields], truth: float) -> float:
    return float(np.mean([of["low"] <= truth <= of["high"] for of in found]))


def narrower(audits: list[Fields]) -> tuple[float, float]:
    """How much narrower the corrected interval is than that of the labels alone, 0 to 1: in a language, on average."""
    of = [list(found["languages"].values()) for found in audits]
    singles = [1 - width(row["corrected"]) / width(row["labels_alone"]) for rows in of for row in rows]
    averages = [1 - width(f["average"]["corrected"]) / width(f["average"]["labels_alone"]) for f in audits]
    return float(np.mean(singles)), float(np.mean(averages))


def width(row: Fields) -> float:
    return float(row["high"] - row["low"])


def main() -> None:
    parser = argparse.ArgumentParser(description="planted biases of a simulated judge, and how often they are found")
    parser.add_argument("--simulations", type=int, default=200, help="per judge (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the simulations (default: 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    arguments = parser.parse_args()
    table: list[Row] = []
    shares: dict[str, tuple[float, float]] = {}
    for judge, (soft, times) in JUDGES.items():
        audits = runs(arguments.simulations, soft, arguments.seed, times)
        table += rows(judge, audits)
        shares[judge] = narrower(audits)
    agreeing = {a: {n: steady(arguments.simulations, a, n, arguments.seed) for n in SIZES} for a in AGREEMENTS}
    if arguments.json:
        found = {"simulations": arguments.simulations, "rows": table, "narrower": shares, "agreeing": agreeing}
        print(json.dumps(found))
        return
    print(f"{len(LANGUAGES)} languages, {PROMPTS} prompts, {LABELLED} labelled; {arguments.simulations} simulations")
    print(f"{'judge gives':16}{'figure':14}{'planted':>9}{'mean':>9}{'covered':>9}{'average':>9}")
    for row in table:
        print(
            f"{row['judge']:16}{row['figure']:14}{row['truth']:9.2f}{row['mean']:9.2f}"
            f"{100 * row['covered']:8.1f}%{100 * row['covered_average']:8.1f}%"
        )
    for judge, (single, average) in shares.items():
        print(f"{judge}: the corrected interval is {single:.0%} narrower in a language, {average:.0%} on average")
    print(f"\nnarrower in a language, {LABELLED} labelled{'':7}" + "".join(f"{n:>5} prompts" for n in SIZES))
    for agreement, of in agreeing.items():
        print(f"labels, {agreement:.0%} of them people's{'':13}" + "".join(f"{share:>13.0%}" for share in of.values()))


if __name__ == "__main__":
    main()
