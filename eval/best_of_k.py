"""What the best of k candidates is worth for k = 1, 2, 4, … n: per language and on average, with 95 % intervals.

Sampled once, scored once: the expected value of every k follows from all n scores (`icr.best_of_n`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eval.clusters import PERCENT, Bounds, Part, estimate
from eval.rates import explained, missing_for, no_rate, rate_fields
from icr.base.fields import Fields
from icr.best_of_n import expected_known, expected_scored, kl_bound

Scores = Mapping[str, Mapping[str, Sequence[float | None]]]
"""Language → prompt id → the score of each candidate; None where it has none."""
NAME, WINS = "score", "win_rate"
NO_SCORE = "no candidate has a score"
NO_VERDICT = "no candidate with a score has a verdict"
Parts = Mapping[str, Part | None]


def sizes_up_to(n: int, *also: int) -> list[int]:
    """1, 2, 4, … and n itself."""
    return sorted({2**power for power in range(n.bit_length())} | {n, *also})


def summarise_best(scores: Scores, n: int, k: int) -> list[Fields]:
    """A row for each k: `k`, `kl_bound` in nats, the expected score of each language in `languages`, and `average`.

    A prompt counts with the mean over the choices of k candidates that hold a score, so the prompts are the same for
    every k. Prompts without a score are left out; `n` counts the others. Intervals are those of `eval.clusters`.

    Args:
        n: candidates a prompt.
        k: has a row in any case.
    """
    return [
        _row(size, {lang: _part(prompts, size) for lang, prompts in scores.items()}, NAME, NO_SCORE)
        for size in sizes_up_to(n, k)
    ]


def summarise_wins(scores: Scores, wins: Scores, n: int, k: int) -> list[Fields]:
    """As `summarise_best`, of the expected win rate of the best of k by a judge, in percent: `win_rate`.

    A prompt counts with the mean over the choices of k candidates whose best has a verdict.

    Args:
        wins: of the same candidates, a judge's preference for each over the baseline's answer, from 0 to 1; None where
            it has no verdict.
    """
    return [
        _row(size, {lang: _won(scores[lang], wins[lang], size) for lang in scores}, WINS, NO_VERDICT, PERCENT)
        for size in sizes_up_to(n, k)
    ]


def _row(k: int, parts: Parts, name: str, missing: str, bounds: Bounds | None = None) -> Fields:
    without = [lang for lang, part in parts.items() if part is None]
    known = [part for part in parts.values() if part is not None]
    average = no_rate(name, missing_for(without)) if without else rate_fields(name, estimate(known, bounds))
    return {
        "k": k,
        "kl_bound": kl_bound(k),
        "languages": {lang: _language(part, name, missing, bounds) for lang, part in parts.items()},
        "average": explained(average),
    }


def _part(prompts: Mapping[str, Sequence[float | None]], k: int) -> Part | None:
    """One language's expected score; None where no candidate has a score."""
    expected = {id: expected_scored(rewards, k) for id, rewards in prompts.items()}
    known = {id: value for id, value in expected.items() if value is not None}
    return Part.of(known) if known else None


def _won(
    prompts: Mapping[str, Sequence[float | None]], wins: Mapping[str, Sequence[float | None]], k: int
) -> Part | None:
    """One language's expected win rate in percent; None where no candidate has a score and a verdict."""
    expected = {id: expected_known(rewards, wins[id], k) for id, rewards in prompts.items()}
    known = {id: 100 * value for id, value in expected.items() if value is not None}
    return Part.of(known) if known else None


def _language(part: Part | None, name: str, missing: str, bounds: Bounds | None) -> Fields:
    if part is None:
        return explained(no_rate(name, missing)) | {"n": 0}
    found = estimate([part], bounds)
    return explained(rate_fields(name, found)) | {"n": found.n}
