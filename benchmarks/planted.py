"""Planted preferences: a text that people called good, against the same text with one thing done wrong to it.

What is wrong is known in any language, so no judge is needed; and the two are of one length, or nearly, so that length
cannot tell them apart.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from prompts.preferences.rows import PairRow, RatingRow

SENTENCE = re.compile(r"(?<=[.!?…])\s+")
PROMPT = "passage:"
"""What e5 reads before a text; pairs have a prompt, and these texts have none."""
NEAR = 0.15
"""Share of a text's characters by which its spoiled twin may be longer or shorter."""


class Text(NamedTuple):
    """A text, the others of its language, and the coins for it."""

    text: str
    others: Sequence[str]
    """Sentences of other texts."""
    random: random.Random


def swap_words(of: Text, count: int) -> str | None:
    """`count` times two neighbouring words change places; no word moves twice. None: the text is too short for it.

    Words at the beginning of a sentence, and those beside a mark, stay: only the order is wrong then.
    """
    words = of.text.split(" ")
    inner = [n > 0 and word.isalpha() and words[n - 1][-1:].isalpha() for n, word in enumerate(words)]
    places = [n for n in range(len(words) - 1)
              if inner[n] and inner[n + 1] and words[n].lower() != words[n + 1].lower()]  # fmt: skip
    of.random.shuffle(places)
    chosen: list[int] = []
    for place in places:
        if len(chosen) < count and all(abs(place - other) > 1 for other in chosen):
            chosen.append(place)
    for place in chosen:
        words[place], words[place + 1] = words[place + 1], words[place]
    return " ".join(words) if len(chosen) == count else None


def repeat_sentence(of: Text) -> str | None:
    """One sentence replaces another; of all choices, one of the nearest in length."""
    sentences = SENTENCE.split(of.text)
    choices = [(one, other) for one in range(len(sentences)) for other in range(len(sentences))
               if sentences[one] != sentences[other]]  # fmt: skip
    if not choices:
        return None
    of.random.shuffle(choices)
    copied, dropped = min(choices, key=lambda pair: abs(len(sentences[pair[0]]) - len(sentences[pair[1]])))
    sentences[dropped] = sentences[copied]
    return " ".join(sentences)


def replace_sentence(of: Text) -> str | None:
    """One sentence is another text's, nearest in length. None: the text has one sentence alone."""
    sentences = SENTENCE.split(of.text)
    others = [other for other in of.others if other not in sentences]
    if len(sentences) < 2 or not others:
        return None
    place = of.random.randrange(len(sentences))
    of.random.shuffle(others)
    sentences[place] = min(others, key=lambda other: abs(len(other) - len(sentences[place])))
    return " ".join(sentences)


KINDS: Mapping[str, Callable[[Text], str | None]] = {
    "1-swap": lambda of: swap_words(of, 1),
    "2-swaps": lambda of: swap_words(of, 2),
    "4-swaps": lambda of: swap_words(of, 4),
    "repeated": repeat_sentence,
    "replaced": replace_sentence,
}
"""What can be done to a text."""
TRAINED = ("2-swaps", "repeated", "replaced")
"""What the training pairs have; the validation has all KINDS."""


def spoil(kind: str, of: Text) -> str | None:
    """The spoiled text; None where the kind does not fit the text, or changes its length by more than NEAR."""
    made = KINDS[kind](of)
    if made is None or made == of.text or abs(len(made) - len(of.text)) > NEAR * len(of.text):
        return None
    return made


def plant(rows: Sequence[RatingRow], kinds: Sequence[str], each: int, limit: int, seed: int = 0) -> list[PairRow]:
    """Pairs from the good texts of one language.

    Args:
        rows: ratings of the language, and of one side of a split.
        kinds: names of KINDS; those that are rarest so far are tried first, so that all are about as frequent.
        each: pairs of one text, each of another kind.
        limit: texts; those of several sentences first, to which every kind can be done.
    """
    good = [row for row in rows if row["label"] == 1]
    texts = {" ".join(row["response"].split()): row for row in good}
    texts = dict(sorted(texts.items(), key=lambda item: len(SENTENCE.split(item[0])) < 2))
    sentences = [(sentence, row["group"]) for text, row in texts.items() for sentence in SENTENCE.split(text)]
    counts = dict.fromkeys(kinds, 0)
    pairs: list[PairRow] = []
    groups: set[str] = set()
    for text, row in texts.items():
        if row["group"] in groups or len(groups) == limit:
            continue
        others = [sentence for sentence, group in sentences if group != row["group"]]
        of = Text(text, others, random.Random(f"{seed} {row['group']}"))
        spoiled_by = ((kind, spoil(kind, of)) for kind in sorted(kinds, key=counts.__getitem__))
        made = [(kind, spoiled) for kind, spoiled in spoiled_by if spoiled is not None][:each]
        if len(made) < each:
            continue
        groups.add(row["group"])
        for kind, spoiled in made:
            counts[kind] += 1
            pairs.append(
                {"id": f"{row['group']}/{kind}", "lang": row["lang"], "prompt": PROMPT, "chosen": text,
                 "rejected": spoiled, "source": "planted", "group": row["group"], "margin": None}
            )  # fmt: skip
    return pairs


def flip(pairs: Sequence[PairRow], seed: int = 0) -> list[PairRow]:
    """The same pairs, each with its sides changed at the throw of a coin: nothing to learn is left."""
    flipped: list[PairRow] = []
    for row in pairs:
        heads = random.Random(f"{seed} {row['id']}").random() < 0.5
        sides = (row["rejected"], row["chosen"]) if heads else (row["chosen"], row["rejected"])
        flipped.append({**row, "chosen": sides[0], "rejected": sides[1]})
    return flipped


def kind_of(row: PairRow) -> str:
    """What was done to the rejected text."""
    return row["id"].rpartition("/")[2]
