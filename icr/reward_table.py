"""One language's scores become its rewards: filters, lengths, the α fit (Eq. 15), the reward with its penalty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from icr.base.errors import UserError
from icr.config.schema import Reward
from icr.languages import detect, same_language
from icr.length import LengthPenalty, fit_length_penalty, length_penalty_at
from icr.pairs import candidates
from icr.rewards import implicit_reward, penalised
from icr.rows import Row, is_empty

SCALE = "beta*(policy_logp-reference_logp)"
FILTERS = ("truncated", "wrong_language")


@dataclass(frozen=True)
class Scores:
    """What a reward kind says of some responses of one language, in their order, before any length penalty."""

    rewards: Sequence[float | None]
    """None: there is no reward, and `dropped` says why."""
    policy_logps: Sequence[float | None]
    reference_logps: Sequence[float | None]
    """Sums in nats; None for kinds without log-probs."""
    dropped: Sequence[str | None]
    """Why the kind could not reward a response; None where it could."""
    scale: str = SCALE
    """What the rewards measure, for lengths.json: α is in this unit per unit of length."""
    reasons: tuple[str, ...] = ()
    """The values that `dropped` may have; all are counted."""

    @classmethod
    def implicit(cls, policy_logps: ArrayLike, reference_logps: ArrayLike, beta: float) -> Scores:
        """Of log-probs of every response."""
        policy, reference = np.asarray(policy_logps, np.float64), np.asarray(reference_logps, np.float64)
        rewards = implicit_reward(policy, reference, beta).tolist()
        return cls(rewards, policy.tolist(), reference.tolist(), [None] * len(rewards))

    @classmethod
    def plain(cls, rewards: Sequence[float | None], scale: str, missing: str | None = None) -> Scores:
        """Of rewards without log-probs; `missing` is why one may be None."""
        none = [None] * len(rewards)
        dropped = [missing if reward is None else None for reward in rewards]
        return cls(rewards, none, none, dropped, scale, (missing,) if missing else ())


@dataclass(frozen=True)
class ScoredLanguage:
    rows: list[Row]
    """REWARDS rows, in the order of the responses."""
    length_penalty: dict[str, Any]
    """This language's entry of lengths.json."""
    counts: dict[str, Any]
    """`responses`, `truncated`, `wrong_language`, `empty`, and `dropped` by reason. A response counts under all that
    it is, but is dropped for one reason only: that its kind could not reward it, else the first of FILTERS that is on
    and applies."""


def reward_language(responses: Sequence[Row], scores: Scores, reward_config: Reward, lang: str) -> ScoredLanguage:
    """Rewards of one language's responses, with α fitted over those that compete (icr.pairs.candidates).

    Args:
        responses: RESPONSES rows of `lang`.
        scores: theirs, in their order.
        reward_config: the length's unit, what to do about α, and which filters are on.

    Raises:
        UserError: a reward is not finite; no prompt has two responses that compete.
        ValueError: there are not as many scores as responses.
    """
    # Who competes does not depend on α: the rows carry the reward without penalty until it is known.
    rows = reward_rows(responses, scores, reward_config, lang)
    groups = [[c.reward for c in group] for group in candidates(responses, rows).values() if len(group) >= 2]
    counts = response_counts(responses, rows, lang, scores.reasons)
    if not groups:
        raise UserError(
            f"no prompt in {lang} has two responses to compare, of {counts['responses']} responses "
            f"({counts['empty']} empty; dropped: {counts['dropped']})",
            where="reward.kind, reward.drop_truncated, reward.drop_wrong_language, sampling.max_tokens",
            do=f"turn the filters off, sample longer or more, or take {lang} out of prompts.languages",
        )
    penalty = _length_penalty(groups, reward_config)
    kept = [row for row in rows if row["reward"] is not None]
    with_penalty = penalised([row["reward"] for row in kept], [row["length"] for row in kept], penalty.alpha)
    for row, reward in zip(kept, with_penalty.tolist(), strict=True):
        row["reward"] = reward
    entry = {
        "alpha": penalty.alpha,
        "gap": penalty.gap,
        "gap_without_penalty": penalty.gap_without_penalty,
        "unit": reward_config.length_unit,
        "scale": scores.scale,
        "beta": reward_config.beta if scores.scale == SCALE else None,
        "prompts": len(groups),
        "responses": sum(map(len, groups)),
        "curve": [list(point) for point in penalty.curve],
    }
    return ScoredLanguage(rows, entry, counts)


def reward_rows(responses: Sequence[Row], scores: Scores, config: Reward, lang: str) -> list[Row]:
    """REWARDS rows of one language, the rewards still without length penalty."""
    of_kind = zip(scores.rewards, scores.policy_logps, scores.reference_logps, scores.dropped, strict=True)
    rows = []
    for response, (reward, policy, reference, why) in zip(responses, of_kind, strict=True):
        row = _row(response, config, lang)
        row |= {"policy_logp": policy, "reference_logp": reference, "reward": reward}
        rows.append(row | {"dropped": why or row["dropped"]})
    return rows


def measured_length(text: str, token_ids: Sequence[int], config: Reward) -> int:
    """|y| in the unit of the config: characters without the white space around the text, or tokens."""
    return len(text.strip()) if config.length_unit == "characters" else len(token_ids)


def _row(response: Row, config: Reward, lang: str) -> Row:
    truncated = response["finish_reason"] == "length"
    detected = detect(response["response"])
    dropped = None
    if config.drop_truncated and truncated:
        dropped = "truncated"
    elif config.drop_wrong_language and not same_language(detected, lang):
        dropped = "wrong_language"
    return {
        "prompt_id": response["prompt_id"],
        "sample": response["sample"],
        "length": measured_length(response["response"], response["token_ids"], config),
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


def response_counts(
    responses: Sequence[Row], rows: Sequence[Row], lang: str, reasons: tuple[str, ...] = ()
) -> dict[str, Any]:
    """`ScoredLanguage.counts` of RESPONSES rows and their REWARDS rows; `reasons` besides FILTERS to drop one."""
    return {
        "responses": len(rows),
        "truncated": sum(row["truncated"] for row in rows),
        "wrong_language": sum(not same_language(row["detected_lang"], lang) for row in rows),
        "empty": sum(map(is_empty, responses)),
        "dropped": {name: sum(row["dropped"] == name for row in rows) for name in (*FILTERS, *reasons)},
    }
