"""Prompts whose pair changes with the precision of the scores."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icr.pairs import pair_flips


def test_flips_count_prompts_whose_pair_changes() -> None:
    prompt = [0, 1, 0, 1, 0, 2, 2, 2]
    fp32 = [1.0, 5.0, 2.0, 4.0, 3.0, 7.0, 8.0, 9.0]
    assert pair_flips(fp32, fp32, prompt) == 0
    best_of_0_and_worst_of_2 = [3.5, 5.0, 2.0, 4.0, 3.0, 7.5, 7.0, 9.0]
    assert pair_flips(best_of_0_and_worst_of_2, fp32, prompt) == 2
    assert pair_flips([1.0, 1.0], [2.0, 2.0], [3, 3]) == 0
    assert pair_flips([1.0, 1.0], [1.0, 2.0], [3, 3]) == 1  # a tie takes the first as best and worst
    assert pair_flips([], [], []) == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 4)), max_size=20))
def test_flips_equal_a_plain_loop(rows: list[tuple[int, int, int]]) -> None:
    def pair(rewards: list[int]) -> tuple[int, int]:
        return rewards.index(max(rewards)), rewards.index(min(rewards))

    groups: dict[int, list[tuple[int, int]]] = {}
    for a, b, prompt in rows:
        groups.setdefault(prompt, []).append((a, b))
    expected = sum(pair([a for a, _ in g]) != pair([b for _, b in g]) for g in groups.values())
    assert pair_flips([a for a, _, _ in rows], [b for _, b, _ in rows], [p for _, _, p in rows]) == expected


@pytest.mark.parametrize(
    ("a", "b", "prompt", "message"),
    [([1.0], [1.0, 2.0], [0, 0], "equally long"), ([math.nan], [1.0], [0], "NaN")],
)
def test_flips_refuse_bad_rewards(a: list[float], b: list[float], prompt: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pair_flips(a, b, prompt)
