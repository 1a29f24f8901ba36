"""The stages "score" and "pair" of LIDR, which makes pairs without a reward."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from icr.base.files import read_rows, write_json, write_rows
from icr.lidr import DROPS, OWN, Side, Sides, first_match, others, pair_row
from icr.reward_table import Scores, measured_length, response_counts, reward_rows
from icr.rounds.stages.translate import read_translations, translate_responses
from icr.rows import REWARDS, Row

if TYPE_CHECKING:
    from icr.rounds.context import Context


def score(context: Context, responses: dict[str, list[Row]]) -> dict[str, Any]:
    """Stage "score": translations in both directions; REWARDS rows without rewards, which say what filters took out.

    Args:
        responses: RESPONSES rows by language.
    """
    reward = context.config.reward
    both_ways = [way for lang in others(context.languages) for way in ((lang, "en"), ("en", lang))]
    translated = translate_responses(context, both_ways, [OWN])
    counts = {}
    for lang, rows in responses.items():
        own = [row for row in rows if row["sample"] == OWN]
        table = reward_rows(own, Scores.plain([None] * len(own), "none"), reward, lang)
        write_rows(context.round.rewards / f"{lang}.parquet", table, REWARDS)
        counts[lang] = response_counts(own, table, lang)
    write_json(context.round.lengths, {})
    total = sum(c["responses"] for c in counts.values())
    return {"responses": total, "translations": translated, "languages": counts}


def pairs(context: Context, responses: dict[str, list[Row]]) -> tuple[list[Row], dict[str, Any]]:
    """Stage "pair": PAIRS rows without rewards, and their counts per language.

    Args:
        responses: RESPONSES rows by language, `prompt_ids` among their columns.

    Of each language prompts = pairs + the sum of `dropped`, which has DROPS.
    """
    sides = _sides(context, responses)
    found: list[Row] = []
    counts = {}
    for lang, rows in responses.items():
        other = others(context.languages) if lang == "en" else ["en"]
        own = [row for row in rows if row["sample"] == OWN]
        made = [first_match(sides, row, [*other[turn % len(other) :], *other]) for turn, row in enumerate(own)]
        counts[lang] = _counts(made, context)
        found += [pair_row(row, *pair) for row, pair in zip(own, made, strict=True) if not isinstance(pair, str)]
    return found, counts


def _sides(context: Context, responses: dict[str, list[Row]]) -> Sides:
    own: dict[str, dict[str, Side | None]] = {lang: {} for lang in responses}
    translated: dict[tuple[str, str], dict[str, Side | None]] = {}
    for other in others(context.languages):
        for lang, target in ((other, "en"), ("en", other)):
            rows = read_translations(context.round, lang, target)
            texts = {row["prompt_id"]: row["response"].strip() for row in responses[lang] if row["sample"] == OWN}
            taken_out = {
                row["prompt_id"] for row in read_rows(context.round.rewards / f"{lang}.parquet") if row["dropped"]
            }
            for (prompt_id, _), row in rows.items():
                usable = texts[prompt_id] and prompt_id not in taken_out
                own[lang][prompt_id] = Side(texts[prompt_id], row["response_ids"], OWN) if usable else None
            translated[lang, target] = {
                prompt_id: None if row["failed"] else Side(row["translation"], row["token_ids"], None)
                for (prompt_id, _), row in rows.items()
            }
    return Sides(own, translated)


def _counts(made: list[tuple[Side, Side] | str], context: Context) -> dict[str, Any]:
    kept = [pair for pair in made if not isinstance(pair, str)]

    def mean_length(side: int) -> float | None:
        lengths = [measured_length(pair[side].text, pair[side].token_ids, context.config.reward) for pair in kept]
        return math.fsum(lengths) / len(lengths) if lengths else None

    return {
        "prompts": len(made),
        "pairs": len(kept),
        "dropped": {reason: made.count(reason) for reason in DROPS},
        "reward_margin": None,
        "chosen_length": mean_length(0),
        "rejected_length": mean_length(1),
    }
