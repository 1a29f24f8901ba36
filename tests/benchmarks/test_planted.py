"""Planted preferences: what is done to a text, and that length does not tell."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from benchmarks.planted import KINDS, NEAR, Text, flip, kind_of, plant, spoil, swap_words
from prompts.preferences.make import longer_wins
from prompts.preferences.rows import RatingRow

TEXT = "The old whale swims far out at sea. Nobody in town has seen it lately. It comes back in autumn."
COUNTS = ("one", "two", "three", "four", "five", "six")


def text(of: str, *others: str) -> Text:
    return Text(of, others, random.Random(0))


def rating(number: int, response: str, label: int = 1) -> RatingRow:
    return {"id": f"r{number}", "lang": "en", "prompt": "", "response": response, "label": label, "source": "s",
            "group": f"g{number}"}  # fmt: skip


def many(count: int) -> list[RatingRow]:
    return [rating(n, f"{TEXT} It was number {COUNTS[n % 6]} of {n} whales there.") for n in range(count)]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_words_change_places_with_a_neighbour(count: int) -> None:
    spoiled = swap_words(text(TEXT), count)
    assert spoiled is not None
    before, after = TEXT.split(), spoiled.split()
    assert sorted(before) == sorted(after) and len(spoiled) == len(TEXT)
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 2 * count
    for sentence in (0, 8, 15):  # beginnings stay, and so does what has a mark
        assert after[sentence] == before[sentence]
    assert [word for word in after if word.endswith(".")] == ["sea.", "lately.", "autumn."]


def test_a_text_too_short_for_it_is_left_alone() -> None:
    assert swap_words(text("Whales swim."), 1) is None
    assert spoil("repeated", text("One sentence alone has no other to repeat.")) is None
    assert spoil("replaced", text(TEXT)) is None  # there is no other text


def test_a_sentence_stands_twice() -> None:
    spoiled = spoil("repeated", text(TEXT))
    assert spoiled is not None
    counts = Counter(sentence.strip(". ") for sentence in spoiled.split(". "))
    assert sorted(counts.values()) == [1, 2]
    assert set(counts) < {sentence.strip(". ") for sentence in TEXT.split(". ")}


def test_a_sentence_is_another_texts() -> None:
    spoiled = spoil("replaced", text(TEXT, "The cake needs four eggs and some milk.", "No."))
    assert spoiled is not None and "four eggs" in spoiled
    assert abs(len(spoiled) - len(TEXT)) <= NEAR * len(TEXT)


def test_pairs_are_of_good_texts_each_once_and_the_same_every_time() -> None:
    rows = [*many(30), rating(99, f"Bad. {TEXT}", label=0)]
    pairs = plant(rows, list(KINDS), 2, 20)
    assert pairs == plant(rows, list(KINDS), 2, 20)
    assert len(pairs) == 40 and set(Counter(pair["group"] for pair in pairs).values()) == {2}
    assert set(Counter(map(kind_of, pairs)).values()) == {8}  # each kind as often as the others
    assert not any(pair["chosen"].startswith("Bad") for pair in pairs)
    assert 0.4 < longer_wins(pairs) < 0.6


def test_the_control_has_the_same_pairs_with_about_half_turned() -> None:
    pairs = plant(many(60), ["2-swaps"], 1, 60)
    turned = flip(pairs)
    assert [{row["chosen"], row["rejected"]} for row in pairs] == [{row["chosen"], row["rejected"]} for row in turned]
    assert 20 < sum(a["chosen"] == b["rejected"] for a, b in zip(pairs, turned, strict=True)) < 40
