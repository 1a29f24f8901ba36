"""Rows of responses and rewards by hand, and their way through `reward_language`."""

from __future__ import annotations

from typing import Any

from icr.config.schema import Reward
from icr.reward_table import ScoredLanguage, reward_language
from icr.rewards import score_ratios

Row = dict[str, Any]
SPANISH = "El tren sale al mediodía, así que deberíamos llegar un poco antes a la estación."
ENGLISH = "The train leaves at noon, so we should be at the station a little earlier."


def score_language(
    responses: list[dict[str, Any]], policy: Any, reference: Any, config: Reward, lang: str
) -> ScoredLanguage:
    return reward_language(responses, score_ratios(policy, reference, config.beta), config, lang)


def response(
    prompt_id: str, sample: int, text: str, finish_reason: str = "stop", tokens: int = 3, prompt_ids: Any = None
) -> Row:
    return {
        "prompt_id": prompt_id,
        "lang": "es",
        "sample": sample,
        "prompt": f"¿{prompt_id}?",
        "response": text,
        "token_ids": list(range(sample, sample + tokens)),
        "finish_reason": finish_reason,
        "prompt_ids": prompt_ids or [],
    }


def reward(prompt_id: str, sample: int, value: float, dropped: str | None = None, length: int = 0) -> Row:
    return {
        "prompt_id": prompt_id,
        "sample": sample,
        "policy_logp": value,
        "reference_logp": 0.0,
        "length": length,
        "reward": value,
        "truncated": False,
        "detected_lang": None,
        "dropped": dropped,
    }
