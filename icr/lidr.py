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

from dataclasses import dataclass
from typing import NamedTuple

from icr.rows import Row

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


@dataclass(frozen=True)
class Sides:
    """What a round's pairs are made of, by prompt id; None where there is no such answer."""

    own: dict[str, dict[str, Side | None]]
    """By language."""
    translated: dict[tuple[str, str], dict[str, Side | None]]
    """By (from, to)."""


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


def first_match(sides: Sides, row: Row, order: list[str]) -> tuple[Side, Side] | str:
    """The first of the languages in `order` that gives a pair; else why the first one gives none."""
    tried = [match(sides, row["lang"], other, row["prompt_id"]) for other in order]
    return next((pair for pair in tried if not isinstance(pair, str)), tried[0])


def pair_row(response: Row, chosen: Side, rejected: Side) -> Row:
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
