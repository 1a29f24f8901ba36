"""The tables that a round makes, row by row: a prompt's responses, their rewards, translations, and pairs."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

RESPONSES = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("lang", pa.string()),
        ("sample", pa.int32()),
        ("prompt", pa.string()),
        ("response", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("finish_reason", pa.string()),
        ("prompt_ids", pa.list_(pa.int32())),
    ]
)
REWARDS = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("sample", pa.int32()),
        ("policy_logp", pa.float64()),
        ("reference_logp", pa.float64()),
        ("length", pa.int64()),
        ("reward", pa.float64()),  # null: there is none, and `dropped` says why
        ("truncated", pa.bool_()),
        ("detected_lang", pa.string()),  # null: too short or too mixed to tell
        ("dropped", pa.string()),  # null, or the filter that took the response out
    ]
)
TRANSLATIONS = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("lang", pa.string()),
        ("target", pa.string()),
        ("sample", pa.int32()),
        ("response_ids", pa.list_(pa.int32())),  # of the stripped response that was translated
        ("translation", pa.string()),
        ("token_ids", pa.list_(pa.int32())),  # of the translation; both end as the response ended
        ("finish_reason", pa.string()),  # null: the policy was not asked
        ("failed", pa.string()),  # null, or why this is no translation
    ]
)
PAIRS = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("lang", pa.string()),
        ("prompt", pa.string()),
        ("chosen", pa.string()),
        ("rejected", pa.string()),
        ("chosen_reward", pa.float64()),
        ("rejected_reward", pa.float64()),
        ("chosen_sample", pa.int32()),
        ("rejected_sample", pa.int32()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("chosen_ids", pa.list_(pa.int32())),
        ("rejected_ids", pa.list_(pa.int32())),
    ]
)


Row = dict[str, Any]


def is_empty(response: Row) -> bool:
    """Whether a RESPONSES row says nothing: no text but white space."""
    return not response["response"].strip()
