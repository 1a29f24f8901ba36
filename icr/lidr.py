"""LIDR, the baseline of Yang et al., "Language Imbalance Driven Rewarding" (ICLR 2025, arXiv 2410.08964).

No reward: the model is taken to be better in English than elsewhere. It answers in every language and translates its
own answers, and of an own answer and a translation the one that began in English is chosen:

    English:          chosen = own English answer,                   rejected = the ℓ answer translated into English
    other language ℓ: chosen = the English answer translated into ℓ, rejected = own ℓ answer

- An own answer is the model's greedy one, as in the paper: a sampled one would make either side worse by chance. (With
  several responses per prompt in the round's folder it is the first.)
- Each other language gives an English prompt a rejected answer. The paper defines the pair for English and one other
  language and its script, run for several, keeps one English pair per prompt, that of the last language. Here there is
  one English pair per prompt as well, and the other languages take turns, prompt by prompt, so that all of them reject
  equally often and English is trained on no more pairs than they are. Where the language whose turn it is gives no
  pair, the next one does.
- Both sides of a pair are token ids of stripped texts: a sampled answer may begin with white space where a translation
  never does, and that must not tell the two apart.
- Prompts that ask for a translation themselves are not told from others; the paper has a list of those in its data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from icr.files import read_rows, write_json, write_rows
from icr.pairs import Row
from icr.rundir import REWARDS
from icr.scoretable import Scores, measured_length, response_counts, reward_rows
from icr.translation import read_translations, translate_responses

if TYPE_CHECKING:
    from icr.stages import Context

OWN = 0
"""The sample that is the model's own answer."""
DROPS = ("no_answer", "translation", "identical")
"""Why a prompt makes no pair: an own answer is empty or taken out by a filter; a translation failed; both are alike."""


class Side(NamedTuple):
    """What a pair has as chosen or rejected. `sample` is None for a translation."""

    text: str
    token_ids: list[int]
    sample: int | None


def others(languages: list[str]) -> list[str]:
    """The languages besides English."""
    return [lang for lang in languages if lang != "en"]


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


@dataclass(frozen=True)
class Sides:
    """What a round's pairs are made of, by prompt id; None where there is no such answer."""

    own: dict[str, dict[str, Side | None]]
    """By language."""
    translated: dict[tuple[str, str], dict[str, Side | None]]
    """By (from, to)."""


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
        made = [_first(sides, row, [*other[turn % len(other) :], *other]) for turn, row in enumerate(own)]
        counts[lang] = _counts(made, context)
        found += [_row(row, *pair) for row, pair in zip(own, made, strict=True) if not isinstance(pair, str)]
    return found, counts


def match(sides: Sides, lang: str, other: str, prompt_id: str) -> tuple[Side, Side] | str:
    """(chosen, rejected) in `lang`, of its own answer and the one translated from `other`; or which of DROPS."""
    own, source = sides.own[lang].get(prompt_id), sides.own[other].get(prompt_id)
    if own is None or source is None:
        return "no_answer"
    translation = sides.translated[other, lang].get(prompt_id)
    if translation is None:
        return "translation"
    if own.text == translation.text:
        return "identical"
    return (own, translation) if lang == "en" else (translation, own)


def _first(sides: Sides, row: Row, order: list[str]) -> tuple[Side, Side] | str:
    """The first of the languages in `order` that gives a pair; else why the first one gives none."""
    tried = [match(sides, row["lang"], other, row["prompt_id"]) for other in order]
    return next((pair for pair in tried if not isinstance(pair, str)), tried[0])


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


def _row(response: Row, chosen: Side, rejected: Side) -> Row:
    return {
        "prompt_id": response["prompt_id"],
        "lang": response["lang"],
        "prompt": response["prompt"],
        "chosen": chosen.text,
        "rejected": rejected.text,
        "chosen_reward": None,
        "rejected_reward": None,
        "chosen_sample": chosen.sample,
        "rejected_sample": rejected.sample,
        "prompt_ids": response["prompt_ids"],
        "chosen_ids": chosen.token_ids,
        "rejected_ids": rejected.token_ids,
    }


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
