"""One language's log-probabilities become its rewards: filters, lengths, the α fit (Eq. 15), the reward (Eq. 9, 12)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from icr.config import Reward
from icr.errors import UserError
from icr.languages import detect, same_language
from icr.length import LengthPenalty, fit_length_penalty, length_penalty_at
from icr.pairs import Row, candidates, is_empty
from icr.rewards import cross_lingual_reward, implicit_reward

SCALE = "beta*(policy_logp-reference_logp)"
FILTERS = ("truncated", "wrong_language")


@dataclass(frozen=True)
class ScoredLanguage:
    rows: list[Row]
    """REWARDS rows, in the order of the responses."""
    length_penalty: dict[str, Any]
    """This language's entry of lengths.json."""
    counts: dict[str, Any]
    """`responses`, `truncated`, `wrong_language`, `empty`, and `dropped` by filter. A response counts under all that
    it is, but is dropped by one filter only, the first of FILTERS that is on and applies."""


def score_language(
    responses: Sequence[Row], policy_logps: ArrayLike, reference_logps: ArrayLike, reward_config: Reward, lang: str
) -> ScoredLanguage:
    """Rewards of one language's responses, with α fitted over those that compete (icr.pairs.candidates).

    Args:
        responses: RESPONSES rows of `lang`.
        policy_logps, reference_logps: one sum of log-probs per response, in their order, in nats.
        reward_config: beta, the length's unit, what to do about α, and which filters are on.

    Raises:
        UserError: a log-prob is not finite; no prompt has two responses that compete.
        ValueError: there are not as many log-probs as responses.
    """
    policy, reference = np.asarray(policy_logps, np.float64), np.asarray(reference_logps, np.float64)
    unpenalised = implicit_reward(policy, reference, reward_config.beta)
    logps = zip(policy.tolist(), reference.tolist(), unpenalised.tolist(), strict=True)
    # Who competes does not depend on α: the rows carry the reward without penalty until it is known.
    rows = [_row(response, *values, reward_config, lang) for response, values in zip(responses, logps, strict=True)]
    groups = [[c.reward for c in group] for group in candidates(responses, rows).values() if len(group) >= 2]
    counts = _counts(responses, rows, lang)
    if not groups:
        raise UserError(
            f"no prompt in {lang} has two responses to compare, of {counts['responses']} responses "
            f"({counts['empty']} empty; dropped by filters: {counts['dropped']})",
            where="reward.drop_truncated, reward.drop_wrong_language, sampling.max_tokens",
            do=f"turn the filters off, sample longer or more, or take {lang} out of prompts.languages",
        )
    penalty = _length_penalty(groups, reward_config)
    lengths = [row["length"] for row in rows]
    rewards = cross_lingual_reward(policy, reference, lengths, reward_config.beta, penalty.alpha)
    for row, reward in zip(rows, rewards.tolist(), strict=True):
        row["reward"] = reward
    entry = {
        "alpha": penalty.alpha,
        "gap": penalty.gap,
        "gap_without_penalty": penalty.gap_without_penalty,
        "unit": reward_config.length_unit,
        "scale": SCALE,
        "beta": reward_config.beta,
        "prompts": len(groups),
        "responses": sum(map(len, groups)),
        "curve": [list(point) for point in penalty.curve],
    }
    return ScoredLanguage(rows, entry, counts)


def _row(response: Row, policy: float, reference: float, reward: float, config: Reward, lang: str) -> Row:
    truncated = response["finish_reason"] == "length"
    detected = detect(response["response"])
    dropped = None
    if config.drop_truncated and truncated:
        dropped = "truncated"
    elif config.drop_wrong_language and not same_language(detected, lang):
        dropped = "wrong_language"
    characters = config.length_unit == "characters"
    return {
        "prompt_id": response["prompt_id"],
        "sample": response["sample"],
        "policy_logp": policy,
        "reference_logp": reference,
        "length": len(response["response"].strip()) if characters else len(response["token_ids"]),
        "reward": reward,
        "truncated": truncated,
        "detected_lang": detected,
        "dropped": dropped,
    }


def _length_penalty(groups: list[list[Row]], config: Reward) -> LengthPenalty:
    rewards = [[row["reward"] for row in group] for group in groups]
    lengths = [[row["length"] for row in group] for group in groups]
    if config.length_penalty == "fit":
        return fit_length_penalty(rewards, lengths)
    return length_penalty_at(rewards, lengths, 0.0 if config.length_penalty == "none" else config.length_penalty)


def _counts(responses: Sequence[Row], rows: list[Row], lang: str) -> dict[str, Any]:
    return {
        "responses": len(rows),
        "truncated": sum(row["truncated"] for row in rows),
        "wrong_language": sum(not same_language(row["detected_lang"], lang) for row in rows),
        "empty": sum(map(is_empty, responses)),
        "dropped": {name: sum(row["dropped"] == name for row in rows) for name in FILTERS},
    }
