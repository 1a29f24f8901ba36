"""From scored responses to preference pairs (Eq. 10).

Which responses compete is decided here once, in `candidates`, for the α fit and for the pairs alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from icr.base.errors import UserError
from icr.rows import Row, is_empty


class Candidate(NamedTuple):
    """A response that may become chosen or rejected: its RESPONSES row and its REWARDS row."""

    response: Row
    reward: Row


@dataclass(frozen=True)
class PairResult:
    pairs: list[Row]
    """PAIRS rows, prompts in the order of the responses."""
    counts: dict[str, Any]
    """See `build_pairs`."""


def candidates(responses: Sequence[Row], rewards: Sequence[Row]) -> dict[str, list[Candidate]]:
    """Per prompt, the responses that compete, by sample number; a prompt that has none left keeps its empty list.

    A response competes unless a filter took it out (`dropped` of its REWARDS row is set) or it is empty.
    Prompts come in the order of `responses`. The two tables are joined by (prompt_id, sample).

    Raises:
        UserError: a response without reward row or the reverse, a doubled row, a reward that is not finite.
    """
    scored = _by_key(rewards, "rewards")
    given = _by_key(responses, "responses")
    if alone := sorted(given.keys() ^ scored.keys()):
        key = alone[0]
        missing, there = ("reward", "response") if key in given else ("response", "reward")
        raise UserError(f"there is a {there}, but no {missing}", where=_where(key), do=RESCORE)
    groups: dict[str, list[Candidate]] = {}
    for key, response in given.items():
        row = scored[key]
        _check_reward(row, key)
        group = groups.setdefault(key[0], [])
        if row["dropped"] is None and not is_empty(response):
            group.append(Candidate(response, row))
    return {prompt_id: sorted(group, key=lambda c: c.response["sample"]) for prompt_id, group in groups.items()}


def _check_reward(row: Row, key: Key) -> None:
    """A reward is finite; only a response that was taken out may have none."""
    reward, policy = row["reward"], row["policy_logp"]
    if reward is None and row["dropped"] is not None:
        return
    if reward is None or not math.isfinite(reward):
        logps = f", of log-probabilities {policy} (policy) and {row['reference_logp']} (reference)"
        raise UserError(
            f"the reward is {reward}" + ("" if policy is None else logps),
            where=_where(key),
            do="set reward.precision: fp32; if that does not help, check the models with a prompt of your own",
        )


def build_pairs(
    responses: Sequence[Row], rewards: Sequence[Row], prompt_token_ids: Mapping[str, Sequence[int]]
) -> PairResult:
    """Eq. 10: per prompt the responses of highest and lowest reward, as chosen and rejected under the prompt x^ℓ.

    The prompt of a pair is the one in the target language that the responses were sampled for, not the English one that
    their rewards may be conditioned on. Of equally high (or low) rewards the lowest sample number counts.

    `counts` has `prompts`, `pairs`, and under `dropped` the prompts that make no pair, each under one reason, so that
    prompts = pairs + too_few + identical + equal_reward:
      too_few: fewer than two candidates;
      identical: chosen and rejected read the same, white space around them aside (when all rewards are equal: all do);
      equal_reward: otherwise, highest and lowest reward are equal.
    `dropped.empty` counts *responses*: empty ones that no filter had taken out. The means over the pairs are
    `reward_margin`, and `chosen_length` and `rejected_length` in the length unit of the rewards; None without pairs.

    Args:
        responses, rewards: RESPONSES and REWARDS rows of one language (icr.rows).
        prompt_token_ids: prompt_id → token ids of the prompt in its chat template, as sampled from.

    Raises:
        UserError: as `candidates`.
    """
    groups = candidates(responses, rewards)
    untouched = {(row["prompt_id"], row["sample"]) for row in rewards if row["dropped"] is None}
    dropped = {"identical": 0, "equal_reward": 0, "empty": 0, "too_few": 0}
    dropped["empty"] = sum(is_empty(row) and (row["prompt_id"], row["sample"]) in untouched for row in responses)
    chosen: list[Candidate] = []
    rejected: list[Candidate] = []
    for group in groups.values():
        if reason := _no_pair(group):
            dropped[reason] += 1
        else:
            chosen.append(_best(group))
            rejected.append(_worst(group))
    pairs = [_pair(c, r, prompt_token_ids[c.response["prompt_id"]]) for c, r in zip(chosen, rejected, strict=True)]
    counts = {
        "prompts": len(groups),
        "pairs": len(pairs),
        "dropped": dropped,
        "reward_margin": _mean([pair["chosen_reward"] - pair["rejected_reward"] for pair in pairs]),
        "chosen_length": _mean([c.reward["length"] for c in chosen]),
        "rejected_length": _mean([r.reward["length"] for r in rejected]),
    }
    return PairResult(pairs, counts)


def _best(group: list[Candidate]) -> Candidate:
    return max(group, key=lambda c: c.reward["reward"])  # the first of equals, like argmax in the α fit


def _worst(group: list[Candidate]) -> Candidate:
    return min(group, key=lambda c: c.reward["reward"])


def _no_pair(group: list[Candidate]) -> str | None:
    if len(group) < 2:
        return "too_few"
    best, worst = _best(group), _worst(group)
    tied = best.reward["reward"] == worst.reward["reward"]
    compared = group if tied else [best, worst]
    if len({c.response["response"].strip() for c in compared}) == 1:
        return "identical"
    return "equal_reward" if tied else None


def _pair(chosen: Candidate, rejected: Candidate, prompt_ids: Sequence[int]) -> Row:
    return {
        "prompt_id": chosen.response["prompt_id"],
        "lang": chosen.response["lang"],
        "prompt": chosen.response["prompt"],
        "chosen": chosen.response["response"],
        "rejected": rejected.response["response"],
        "chosen_reward": chosen.reward["reward"],
        "rejected_reward": rejected.reward["reward"],
        "chosen_sample": chosen.response["sample"],
        "rejected_sample": rejected.response["sample"],
        "prompt_ids": list(prompt_ids),
        "chosen_ids": list(chosen.response["token_ids"]),
        "rejected_ids": list(rejected.response["token_ids"]),
    }


Key = tuple[str, int]
RESCORE = "score this round again; if that does not help, remove the round's folder and run it anew"


def _by_key(rows: Sequence[Row], table: str) -> dict[Key, Row]:
    keyed: dict[Key, Row] = {}
    for row in rows:
        key = (row["prompt_id"], row["sample"])
        if key in keyed:
            raise UserError(f"this response appears twice among the {table}", where=_where(key), do=RESCORE)
        keyed[key] = row
    return keyed


def _where(key: Key) -> str:
    return f"prompt_id {key[0]}, sample {key[1]}"


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


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
