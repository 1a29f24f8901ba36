"""From scored responses to preference pairs (Eq. 10).

Which responses compete is decided here once, in `find_competitors`, for the α fit and for the pairs alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, NotRequired, TypedDict, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from icr.base.errors import UserError
from icr.rewards import Score
from icr.rows import Pair, Response, Reward, is_empty


class Candidate(NamedTuple):
    """A response that may become chosen or rejected, its reward with the penalty, and its length."""

    response: Response
    reward: float
    length: int


class PairCounts(TypedDict):
    """Of one language: prompts = pairs + those that make none, each of them under one reason of `dropped`."""

    prompts: int
    pairs: int
    dropped: dict[str, int]
    reward_margin: float | None
    """Mean over the pairs of chosen − rejected reward; None without pairs or rewards."""
    chosen_length: float | None
    rejected_length: float | None
    """Means over the pairs, in the length unit of the rewards; None without pairs."""
    rejected_language: NotRequired[int]
    """Pairs whose rejected response is in another language; only where such responses are rejected."""


WRONG_LANGUAGE = "wrong_language"
"""Why a response does not compete: it is in another language than its prompt."""


@dataclass(frozen=True)
class PairResult:
    """The pairs of one language."""

    pairs: list[Pair]
    """Prompts in the order of the responses."""
    counts: PairCounts


def pick_pair(group: Sequence[Candidate], losers: Sequence[Candidate] = ()) -> tuple[Candidate, Candidate]:
    """Eq. 10: of one prompt's responses (chosen, rejected), those of the highest and of the lowest reward.

    Of equal rewards the first listed counts, as in the α fit. `losers`: responses that lose to all of `group`.
    """
    return max(group, key=lambda c: c.reward), min(losers or group, key=lambda c: c.reward)


def build_pairs(
    responses: Sequence[Response], rewards: Sequence[Reward], *, reject_wrong_language: bool = False
) -> PairResult:
    """Eq. 10 for every prompt of one language: best and worst response, as chosen and rejected under the prompt x^ℓ.

    The prompt of a pair is the one in the target language that the responses were sampled for, not the English one that
    their rewards may be conditioned on. Of equally high (or low) rewards the lowest sample number counts.

    Args:
        reject_wrong_language: whether a response that does not compete because of its language loses to all that do.

    The reasons in `counts["dropped"]` for which prompts make no pair are `too_few`, `identical` and `equal_reward` (see
    `find_reason`). Its `empty` counts *responses*: empty ones that no filter had taken out.

    Raises:
        UserError: as `find_candidates`.
    """
    groups = find_candidates(responses, rewards)
    untouched = {(row["prompt_id"], row["sample"]) for row in rewards if row["dropped"] is None}
    dropped = {"identical": 0, "equal_reward": 0, "empty": 0, "too_few": 0}
    dropped["empty"] = sum(is_empty(row) and (row["prompt_id"], row["sample"]) in untouched for row in responses)
    losers = find_losers(responses, rewards) if reject_wrong_language else {}
    picked: list[tuple[Candidate, Candidate]] = []
    for prompt_id, group in groups.items():
        lost = losers.get(prompt_id, [])
        if reason := find_reason(group, lost):
            dropped[reason] += 1
        else:
            picked.append(pick_pair(group, lost))
    counts: PairCounts = {
        "prompts": len(groups),
        "pairs": len(picked),
        "dropped": dropped,
        "reward_margin": average([chosen.reward - rejected.reward for chosen, rejected in picked]),
        "chosen_length": average([chosen.length for chosen, _ in picked]),
        "rejected_length": average([rejected.length for _, rejected in picked]),
    }
    if reject_wrong_language:
        counts["rejected_language"] = sum(chosen.response["prompt_id"] in losers for chosen, _ in picked)
    return PairResult([_make_pair(*pair) for pair in picked], counts)


def find_reason(group: Sequence[Candidate], losers: Sequence[Candidate] = ()) -> str | None:
    """Why a prompt with these candidates makes no pair; None: it makes one. See `pick_pair` for `losers`.

    too_few: fewer than two candidates, or none that may be chosen;
    identical: chosen and rejected read the same, white space around them aside (when all rewards are equal: all do);
    equal_reward: otherwise, highest and lowest reward are equal.
    """
    if not group or len(group) + len(losers) < 2:
        return "too_few"
    if losers:
        return None
    chosen, rejected = pick_pair(group)
    tied = chosen.reward == rejected.reward
    compared = group if tied else [chosen, rejected]
    if len({c.response["response"].strip() for c in compared}) == 1:
        return "identical"
    return "equal_reward" if tied else None


def find_competitors(responses: Sequence[Response], scores: Sequence[Score]) -> dict[str, list[int]]:
    """Per prompt, the responses that compete: their positions in `responses`, by sample number.

    A response competes unless it was taken out (`dropped` of its score is set) or is empty. Prompts come in the order
    of `responses`; a prompt that has no competitor left keeps its empty list. Rewards decide nothing here, so who
    competes is known before α is.

    Raises:
        UserError: a response twice; a reward that is not finite.
        ValueError: there are not as many scores as responses.
    """
    _index(responses, "responses")
    groups: dict[str, list[int]] = {}
    for position, (response, score) in enumerate(zip(responses, scores, strict=True)):
        _check_score(score, (response["prompt_id"], response["sample"]))
        group = groups.setdefault(response["prompt_id"], [])
        if score.dropped is None and not is_empty(response):
            group.append(position)
    return {id: sorted(group, key=lambda i: responses[i]["sample"]) for id, group in groups.items()}


def find_candidates(responses: Sequence[Response], rewards: Sequence[Reward]) -> dict[str, list[Candidate]]:
    """Per prompt, the responses that compete (`find_competitors`), with their rewards. Joined by (prompt_id, sample).

    Raises:
        UserError: a response without a row of rewards or the reverse, a doubled row, a reward that is not finite.
    """
    scored = _index(rewards, "rewards")
    given = _index(responses, "responses")
    if alone := sorted(given.keys() ^ scored.keys()):
        key = alone[0]
        what = "this response has no reward" if key in given else "this reward has no response"
        raise UserError(what, where=_where(key), do=RESCORE)
    rows = [scored[key] for key in given]  # in the order of the responses
    scores = [Score(row["reward"], row["policy_logp"], row["reference_logp"], row["dropped"]) for row in rows]
    return {
        prompt_id: [Candidate(responses[i], scores[i].known, rows[i]["length"]) for i in group]
        for prompt_id, group in find_competitors(responses, scores).items()
    }


def find_losers(responses: Sequence[Response], rewards: Sequence[Reward]) -> dict[str, list[Candidate]]:
    """Per prompt, the responses in another language that were rewarded, by sample number; empty ones left out."""
    wrong = {(row["prompt_id"], row["sample"]): row for row in rewards if row["dropped"] == WRONG_LANGUAGE}
    losers: dict[str, list[Candidate]] = {}
    for response in sorted(responses, key=lambda row: row["sample"]):
        row = wrong.get((response["prompt_id"], response["sample"]))
        if row is not None and row["reward"] is not None and not is_empty(response):
            losers.setdefault(row["prompt_id"], []).append(Candidate(response, row["reward"], row["length"]))
    return losers


def pair_flips(rewards_a: ArrayLike, rewards_b: ArrayLike, prompt_index: ArrayLike) -> int:
    """On how many prompts two sets of rewards pick another (best, worst) pair.

    Args:
        rewards_a, rewards_b: float [responses], the same responses' rewards at two precisions.
        prompt_index: int [responses], which prompt a response belongs to; a prompt's responses need not be adjacent.

    Of equal rewards the first counts, as in numpy's argmax and argmin. Raises ValueError on unequal lengths and NaN.
    """
    a, b, index = np.asarray(rewards_a, float), np.asarray(rewards_b, float), np.asarray(prompt_index)
    if not a.shape == b.shape == index.shape or a.ndim != 1:
        raise ValueError(f"three equally long lists are needed, got shapes {a.shape}, {b.shape} and {index.shape}")
    if np.isnan(a).any() or np.isnan(b).any():
        raise ValueError("rewards must not be NaN")
    groups = (np.flatnonzero(index == prompt) for prompt in np.unique(index))
    return sum((a[g].argmax(), a[g].argmin()) != (b[g].argmax(), b[g].argmin()) for g in groups)


def average(values: Sequence[float]) -> float | None:
    """The mean; None of no values."""
    return math.fsum(values) / len(values) if values else None


Key = tuple[str, int]
"""(prompt id, sample): a response of one language."""
Keyed = TypeVar("Keyed", Response, Reward)
RESCORE = "remove the round's folder and run the round again"


def _index(rows: Sequence[Keyed], table: str) -> Mapping[Key, Keyed]:
    keyed: dict[Key, Keyed] = {}
    for row in rows:
        key = (row["prompt_id"], row["sample"])
        if key in keyed:
            raise UserError(f"this response appears twice among the {table}", where=_where(key), do=RESCORE)
        keyed[key] = row
    return keyed


def _check_score(score: Score, key: Key) -> None:
    """A reward is finite; only a response that was taken out may have none."""
    if score.reward is None and score.dropped is not None:
        return
    if score.reward is None or not math.isfinite(score.reward):
        logps = f", from log-probabilities {score.policy_logp} (policy) and {score.reference_logp} (reference)"
        raise UserError(
            f"the reward is {score.reward}" + ("" if score.policy_logp is None else logps),
            where=_where(key),
            do="set reward.precision: fp32; if that does not help, test both models on one prompt",
        )


def _where(key: Key) -> str:
    return f"prompt_id {key[0]}, sample {key[1]}"


def _make_pair(chosen: Candidate, rejected: Candidate) -> Pair:
    return {
        "prompt_id": chosen.response["prompt_id"],
        "lang": chosen.response["lang"],
        "prompt": chosen.response["prompt"],
        "chosen": chosen.response["response"],
        "rejected": rejected.response["response"],
        "chosen_reward": chosen.reward,
        "rejected_reward": rejected.reward,
        "chosen_sample": chosen.response["sample"],
        "rejected_sample": rejected.response["sample"],
        "prompt_ids": chosen.response["prompt_ids"],
        "chosen_ids": chosen.response["token_ids"],
        "rejected_ids": rejected.response["token_ids"],
    }
