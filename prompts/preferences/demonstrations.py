"""What of preference data shows how to answer: of pairs the chosen responses, of ratings those with label 1."""

from __future__ import annotations

from typing import cast

from prompts.preferences.make import PreferenceData, Rows
from prompts.preferences.rows import PairRow, RatingRow


def keep_demonstrations(data: PreferenceData) -> PreferenceData:
    """The demonstrations as ratings with label 1, each different one of a split once."""
    return PreferenceData("ratings", _good(data.train), _good(data.validation), data.report)


def _good(rows: Rows) -> list[RatingRow]:
    found: dict[tuple[str, str, str], RatingRow] = {}
    for row in rows:
        good = cast(RatingRow, row) if "response" in row else _chosen(row)
        if good["label"] == 1:
            found.setdefault((good["lang"], good["prompt"], good["response"]), good)
    return list(found.values())


def _chosen(row: PairRow) -> RatingRow:
    return {
        "id": row["id"], "lang": row["lang"], "prompt": row["prompt"], "response": row["chosen"], "label": 1,
        "source": row["source"], "group": row["group"],
    }  # fmt: skip
