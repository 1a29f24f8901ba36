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
- Prompts that ask for a translation themselves are treated like all others; the paper has a list of those in its data.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from icr.pairs import PairResult, average
from icr.rows import Pair, Response, Translation

OWN = 0
"""The sample that is the model's own answer."""
DROPS = ("no_answer", "translation", "identical")
"""Why a prompt makes no pair: an own answer is empty or excluded by a filter; a translation failed; both are equal."""


class Side(NamedTuple):
    """What a pair has as chosen or rejected. `sample` is None for a translation."""

    text: str
    token_ids: list[int]
    sample: int | None


@dataclass(frozen=True)
class Sides:
    """What a round's pairs are made of, by prompt id; None where there is no such answer."""

    own: dict[str, dict[str, Side | None]] = field(default_factory=dict)
    """By language."""
    translated: dict[tuple[str, str], dict[str, Side | None]] = field(default_factory=dict)
    """By (from, to)."""

    def add(
        self, own: Sequence[Response], taken_out: Collection[str], lang: str, target: str, rows: Sequence[Translation]
    ) -> None:
        """Take up own answers in `lang` and their translations into `target`; `taken_out` are the prompt ids of
        answers that a filter took out."""
        texts = {row["prompt_id"]: row["response"].strip() for row in own}
        answers = self.own.setdefault(lang, {})
        for row in rows:
            text = texts[row["prompt_id"]]
            usable = text and row["prompt_id"] not in taken_out
            answers[row["prompt_id"]] = Side(text, row["response_ids"], OWN) if usable else None
        self.translated[lang, target] = {
            row["prompt_id"]: None if row["failed"] else Side(row["translation"], row["token_ids"], None)
            for row in rows
        }


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


def match_first(sides: Sides, response: Response, order: Sequence[str]) -> tuple[Side, Side] | str:
    """The first of the languages in `order` that gives a pair; else why the first one gives none."""
    tried = [match(sides, response["lang"], other, response["prompt_id"]) for other in order]
    return next((pair for pair in tried if not isinstance(pair, str)), tried[0])


def build_pairs(
    sides: Sides, own: Sequence[Response], sources: Sequence[str], measure: Callable[[str, list[int]], int]
) -> PairResult:
    """The pairs of one language. Of its counts prompts = pairs + the sum of `dropped`, which has DROPS.

    Args:
        own: its own answers.
        sources: the languages whose answers were translated into it; they take turns, answer by answer.
        measure: (text, token ids) → its length.
    """
    made = [match_first(sides, row, [*sources[turn % len(sources) :], *sources]) for turn, row in enumerate(own)]
    kept = [(row, *pair) for row, pair in zip(own, made, strict=True) if not isinstance(pair, str)]
    return PairResult(
        [_make_pair(*one) for one in kept],
        {
            "prompts": len(made),
            "pairs": len(kept),
            "dropped": {reason: made.count(reason) for reason in DROPS},
            "reward_margin": None,
            "chosen_length": average([measure(chosen.text, chosen.token_ids) for _, chosen, _ in kept]),
            "rejected_length": average([measure(rejected.text, rejected.token_ids) for _, _, rejected in kept]),
        },
    )


def others(languages: Sequence[str]) -> list[str]:
    """The languages besides English."""
    return [lang for lang in languages if lang != "en"]


def pick_own(responses: Sequence[Response]) -> list[Response]:
    """The model's own answers: one a prompt."""
    return [row for row in responses if row["sample"] == OWN]


def _make_pair(response: Response, chosen: Side, rejected: Side) -> Pair:
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
