"""One language's scores become its rewards: who competes, α (Eq. 15), every reward with its penalty (Eq. 9, 12, 13)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

import numpy as np

from icr.base.errors import UserError
from icr.config.schema import Reward as RewardSettings
from icr.languages import detect, same_language
from icr.length import LengthPenalty, fit_length_penalty, length_penalty_at
from icr.pairs import WRONG_LANGUAGE, find_competitors
from icr.rewards import LOG_RATIO, Score, penalise
from icr.rows import Response, Reward, is_empty

FILTERS = ("truncated", WRONG_LANGUAGE)


class RewardCounts(TypedDict):
    """Responses of one language. One counts under all that it is, but is dropped for one reason only: that its kind
    could not reward it, else the first of FILTERS that is on and applies."""

    responses: int
    truncated: int
    wrong_language: int
    empty: int
    dropped: dict[str, int]
    """By reason: FILTERS and those of the kind."""


class PenaltyFacts(TypedDict):
    """One language's entry of lengths.json."""

    alpha: float
    gap: float
    gap_without_penalty: float
    unit: str
    scale: str
    """What the rewards measure: α is in this unit per unit of length."""
    beta: float | None
    """None where the rewards are not log-ratios."""
    prompts: int
    responses: int
    """Those that competed in the fit."""
    curve: list[list[float]]
    """Points [α, gap]."""


@dataclass(frozen=True)
class ScoredLanguage:
    """The rewards of one language's responses."""

    rows: list[Reward]
    """In the order of the responses."""
    length_penalty: PenaltyFacts | None
    """None for a kind that gives no rewards."""
    counts: RewardCounts


WAYS_OUT = {
    "truncated": ("reward.drop_truncated", "turn the filter of cut-off responses off or sample longer ones"),
    "wrong_language": ("reward.drop_wrong_language", "turn the filter of languages off"),
    "too_long": ("sampling.max_tokens", "sample shorter ones: with the reward's condition they pass the context"),
}
"""Why a response was dropped → the key that decides on it, and what to change."""


def reward_language(
    responses: Sequence[Response],
    scores: Sequence[Score],
    config: RewardSettings,
    lang: str,
    *,
    scale: str | None = LOG_RATIO,
    reasons: Sequence[str] = (),
) -> ScoredLanguage:
    """Rewards of one language's responses, with α fitted over those that compete (icr.pairs.find_competitors).

    Args:
        scores: one a response, in their order.
        config: the length's unit, what to do about α, and which filters are on.
        scale: what the scores measure. None: they hold no rewards, and no α is fitted.
        reasons: why the kind may drop a response; all are counted.

    Raises:
        UserError: a reward is not finite; no prompt has two responses that compete.
        ValueError: there are not as many scores as responses.
    """
    facts = [describe_response(response, config, lang) for response in responses]
    scores = [s._replace(dropped=s.dropped or fact.filtered) for fact, s in zip(facts, scores, strict=True)]
    counts = count_responses(responses, facts, scores, lang, reasons)
    if scale is None:
        return ScoredLanguage(make_rows(responses, facts, scores, alpha=0.0), None, counts)
    groups = [group for group in find_competitors(responses, scores).values() if len(group) >= 2]
    if not groups:
        raise _nothing_to_compare(lang, counts)
    penalty = find_penalty(groups, scores, facts, config)
    entry = _describe_penalty(penalty, groups, config, scale)
    return ScoredLanguage(make_rows(responses, facts, scores, penalty.alpha), entry, counts)


class Facts(NamedTuple):
    """What a response is, whatever its reward."""

    length: int
    truncated: bool
    detected_lang: str | None
    filtered: str | None
    """Which of FILTERS takes it out."""


def _nothing_to_compare(lang: str, counts: RewardCounts) -> UserError:
    dropped = {reason: count for reason, count in counts["dropped"].items() if count}
    found = [f"{counts['empty']} empty", *(f"{n} dropped ({why.replace('_', ' ')})" for why, n in dropped.items())]
    ways = [WAYS_OUT[reason] for reason in dropped if reason in WAYS_OUT]
    return UserError(
        f"no prompt in {lang} has two responses to compare, of {counts['responses']} responses: {', '.join(found)}",
        where=", ".join([*(key for key, _ in ways), "sampling.n"]),
        do=", or ".join([*(way for _, way in ways), f"sample more of them, or remove {lang} from prompts.languages"]),
    )


def describe_response(response: Response, config: RewardSettings, lang: str) -> Facts:
    """Its length and language, whether it was cut off, and which filter, if any, takes it out."""
    truncated = response["finish_reason"] == "length"
    detected = detect(response["response"])
    filtered = None
    if config.drop_truncated and truncated:
        filtered = "truncated"
    elif (config.drop_wrong_language or config.reject_wrong_language) and not same_language(detected, lang):
        filtered = WRONG_LANGUAGE
    length = measure_length(response["response"], response["token_ids"], config)
    return Facts(length, truncated, detected, filtered)


def measure_length(text: str, token_ids: Sequence[int], config: RewardSettings) -> int:
    """|y| in the unit of the config: characters without the white space around the text, or tokens."""
    return len(text.strip()) if config.length_unit == "characters" else len(token_ids)


def find_penalty(
    groups: Sequence[Sequence[int]], scores: Sequence[Score], facts: Sequence[Facts], config: RewardSettings
) -> LengthPenalty:
    """α by Eq. 15 over the competing responses, or the one that the config gives, and what it does to the lengths.

    Args:
        groups: per prompt, the positions of its responses in `scores` and `facts`.
    """
    rewards = [[scores[i].known for i in group] for group in groups]
    lengths = [[facts[i].length for i in group] for group in groups]
    if config.length_penalty == "fit":
        return fit_length_penalty(rewards, lengths)
    return length_penalty_at(rewards, lengths, 0.0 if config.length_penalty == "none" else config.length_penalty)


def make_rows(
    responses: Sequence[Response], facts: Sequence[Facts], scores: Sequence[Score], alpha: float
) -> list[Reward]:
    """The rows of responses, their rewards with the penalty α·|y|."""
    raw = np.asarray([score.reward for score in scores], np.float64)  # None becomes NaN
    rewards = penalise(raw, [fact.length for fact in facts], alpha).tolist()
    return [
        {
            "prompt_id": response["prompt_id"],
            "sample": response["sample"],
            "policy_logp": score.policy_logp,
            "reference_logp": score.reference_logp,
            "length": fact.length,
            "reward": None if score.reward is None else reward,
            "truncated": fact.truncated,
            "detected_lang": fact.detected_lang,
            "dropped": score.dropped,
        }
        for response, fact, score, reward in zip(responses, facts, scores, rewards, strict=True)
    ]


def count_responses(
    responses: Sequence[Response], facts: Sequence[Facts], scores: Sequence[Score], lang: str, reasons: Sequence[str]
) -> RewardCounts:
    """How many responses are what, and how many were taken out for which reason; `reasons` are those of the kind."""
    return {
        "responses": len(responses),
        "truncated": sum(fact.truncated for fact in facts),
        "wrong_language": sum(not same_language(fact.detected_lang, lang) for fact in facts),
        "empty": sum(map(is_empty, responses)),
        "dropped": {name: sum(score.dropped == name for score in scores) for name in (*FILTERS, *reasons)},
    }


def _describe_penalty(
    penalty: LengthPenalty, groups: Sequence[Sequence[int]], config: RewardSettings, scale: str
) -> PenaltyFacts:
    return {
        "alpha": penalty.alpha,
        "gap": penalty.gap,
        "gap_without_penalty": penalty.gap_without_penalty,
        "unit": config.length_unit,
        "scale": scale,
        "beta": config.beta if scale == LOG_RATIO else None,
        "prompts": len(groups),
        "responses": sum(map(len, groups)),
        "curve": [list(point) for point in penalty.curve],
    }
