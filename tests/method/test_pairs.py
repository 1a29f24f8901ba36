from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icr.base.errors import UserError
from icr.config.schema import Reward
from icr.pairs import build_pairs, find_candidates, find_competitors
from icr.rewards import Score
from icr.rows import PAIRS, REWARDS
from tests.helpers.tables import Row, response, reward, score_language


def one_prompt(*scored: tuple[str, float]) -> tuple[list[Row], list[Row]]:
    return (
        [response("p", i, text) for i, (text, _) in enumerate(scored)],
        [reward("p", i, value) for i, (_, value) in enumerate(scored)],
    )


def test_best_and_worst_make_the_pair() -> None:
    responses, rewards = one_prompt(("uno", 0.5), ("dos", -2.0), ("tres", 3.0), ("cuatro", 1.0))
    for row, length in zip(rewards, (3, 3, 4, 6), strict=True):
        row["length"] = length
    result = build_pairs([row | {"prompt_ids": [7, 8]} for row in responses], rewards[::-1])
    assert result.pairs == [
        {
            "prompt_id": "p",
            "lang": "es",
            "prompt": "¿p?",
            "chosen": "tres",
            "rejected": "dos",
            "chosen_reward": 3.0,
            "rejected_reward": -2.0,
            "chosen_sample": 2,
            "rejected_sample": 1,
            "prompt_ids": [7, 8],
            "chosen_ids": [2, 3, 4],
            "rejected_ids": [1, 2, 3],
        }
    ]
    assert result.counts == {
        "prompts": 1,
        "pairs": 1,
        "dropped": {"identical": 0, "equal_reward": 0, "empty": 0, "too_few": 0},
        "reward_margin": 5.0,
        "chosen_length": 4.0,
        "rejected_length": 3.0,
    }
    assert pa.Table.from_pylist(result.pairs, schema=PAIRS).num_rows == 1


def test_of_equal_rewards_the_lowest_sample_counts() -> None:
    responses, rewards = one_prompt(("a", 1.0), ("b", 2.0), ("c", 2.0), ("d", 1.0))
    pair = build_pairs(responses[::-1], rewards).pairs[0]
    assert (pair["chosen_sample"], pair["rejected_sample"]) == (1, 0)


@pytest.mark.parametrize(
    ("scored", "reason"),
    [
        ([("a", 1.0), ("b", 1.0)], "equal_reward"),
        ([("a", 1.0), ("a ", 1.0)], "identical"),
        ([("a", 1.0), ("a", 1.0), ("b", 1.0)], "equal_reward"),
        ([("a", 2.0), ("b", 1.5), ("\na", 1.0)], "identical"),
        ([("a", 1.0)], "too_few"),
        ([("a", 1.0), (" \n", 9.0)], "too_few"),
    ],
)
def test_what_makes_no_pair(scored: list[tuple[str, float]], reason: str) -> None:
    result = build_pairs(*one_prompt(*scored))
    assert result.pairs == []
    counted = {name: n for name, n in result.counts["dropped"].items() if name != "empty"}
    assert counted == {"identical": 0, "equal_reward": 0, "too_few": 0} | {reason: 1}
    assert result.counts["dropped"]["empty"] == sum(not text.strip() for text, _ in scored)
    assert result.counts["reward_margin"] is None


def test_empty_and_dropped_responses_do_not_compete() -> None:
    responses = [response("p", i, text) for i, text in enumerate(["", "a", "b", "c", " "])]
    dropped = [None, None, "truncated", None, "truncated"]
    rewards = [reward("p", i, value, dropped[i]) for i, value in enumerate([9.0, 1.0, 5.0, 2.0, -9.0])]
    result = build_pairs(responses, rewards)
    assert [(pair["chosen"], pair["rejected"]) for pair in result.pairs] == [("c", "a")]
    assert result.counts["dropped"] == {"identical": 0, "equal_reward": 0, "empty": 1, "too_few": 0}


def test_prompts_keep_the_order_of_the_responses() -> None:
    ids = {"a": [1], "m": [2], "z": [3]}
    responses = [response(p, i, f"{p}{i}", prompt_ids=ids[p]) for p in ("z", "a", "m") for i in range(2)]
    rewards = [reward(p, i, i) for p in ("a", "m", "z") for i in range(2)]
    pairs = build_pairs(responses, rewards).pairs
    assert [(pair["prompt_id"], pair["prompt_ids"]) for pair in pairs] == [("z", [3]), ("a", [1]), ("m", [2])]


def test_rows_are_joined_by_id_and_not_by_position() -> None:
    responses, rewards = one_prompt(("a", 1.0), ("b", 2.0))
    with pytest.raises(UserError, match=r"this response has no reward\n.*prompt_id p, sample 1"):
        build_pairs(responses, rewards[:1])
    with pytest.raises(UserError, match=r"this reward has no response\n.*prompt_id p, sample 0"):
        build_pairs(responses[1:], rewards)
    with pytest.raises(UserError, match=r"twice among the rewards\n.*prompt_id p, sample 1"):
        build_pairs(responses, [*rewards, rewards[1]])
    with pytest.raises(UserError, match=r"twice among the responses\n.*prompt_id p, sample 0"):
        build_pairs([*responses, responses[0]], rewards)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_reward_that_is_not_finite_is_named(value: float) -> None:
    responses, rewards = one_prompt(("a", 1.0), ("b", value), ("c", 3.0))
    with pytest.raises(UserError, match=f"the reward is {value}.*\n.*prompt_id p, sample 1"):
        find_candidates(responses, rewards)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(-40, 0), st.integers(-40, 0), st.sampled_from(["", "a", "bb", "ccc", "d" * 9]))),
        min_size=1,
        max_size=5,
    )
)
def test_every_prompt_is_a_pair_or_counted(groups: list[list[tuple[int, int, str]]]) -> None:
    responses = [response(f"p{p}", i, text) for p, group in enumerate(groups) for i, (_, _, text) in enumerate(group)]
    policy, reference = [g[0] for group in groups for g in group], [g[1] for group in groups for g in group]
    config = Reward()
    if all(sum(bool(text) for *_, text in group) < 2 for group in groups):
        with pytest.raises(UserError, match="no prompt in es has two responses"):
            score_language(responses, policy, reference, config, "es")
        return
    scored = score_language(responses, policy, reference, config, "es")
    assert pa.Table.from_pylist(scored.rows, schema=REWARDS).num_rows == len(responses)
    result = build_pairs(responses, scored.rows)
    dropped = result.counts["dropped"]
    assert result.counts["prompts"] == sum(bool(group) for group in groups)
    assert result.counts["prompts"] == result.counts["pairs"] + sum(dropped.values()) - dropped["empty"]
    assert dropped["empty"] == scored.counts["empty"] == sum(not text for group in groups for *_, text in group)
    assert all(pair["chosen_reward"] > pair["rejected_reward"] for pair in result.pairs)


def test_answers_in_another_language_lose_to_all_others() -> None:
    """Where there is one, the worst of them is rejected, whatever its reward; it is never chosen."""
    rows = [
        ("both", "a", 1.0, None), ("both", "b", 2.0, None), ("both", "c", 9.0, "wrong_language"),
        ("both", "d", 5.0, "wrong_language"), ("both", "e", -9.0, "truncated"), ("both", " ", -9.0, "wrong_language"),
        ("right", "f", 1.0, None), ("right", "g", 3.0, None),
        ("one each", "h", 1.0, None), ("one each", "i", 1.0, "wrong_language"),
        ("wrong", "j", 1.0, "wrong_language"), ("wrong", "k", 2.0, "wrong_language"),
    ]  # fmt: skip
    responses = [response(prompt, i, text) for i, (prompt, text, *_) in enumerate(rows)]
    rewards = [reward(prompt, i, value) | {"dropped": why} for i, (prompt, _, value, why) in enumerate(rows)]
    made = build_pairs(responses, rewards, reject_wrong_language=True)
    assert [(pair["chosen"], pair["rejected"]) for pair in made.pairs] == [("b", "d"), ("g", "f"), ("h", "i")]
    assert made.counts["rejected_language"] == 2 and made.counts["dropped"]["too_few"] == 1
    left_out = build_pairs(responses, rewards)
    assert [(pair["chosen"], pair["rejected"]) for pair in left_out.pairs] == [("b", "a"), ("g", "f")]
    assert "rejected_language" not in left_out.counts


def test_who_competes_is_known_before_rewards_have_their_penalty() -> None:
    """By position in the table, by sample number within a prompt, prompts as they come; the rewards decide nothing."""
    responses = [response("z", 2, "c"), response("a", 0, "d"), response("z", 1, " "), response("z", 0, "a")]
    scores = [Score(1.0), Score(dropped="too_long"), Score(9.0), Score(-5.0)]
    assert find_competitors(responses, scores) == {"z": [3, 0], "a": []}
    with pytest.raises(ValueError, match="shorter"):
        find_competitors(responses, scores[:3])
    with pytest.raises(UserError, match=r"twice among the responses\n.*prompt_id a, sample 0"):
        find_competitors([*responses, responses[1]], [*scores, Score(0.0)])
    with pytest.raises(UserError, match=r"the reward is None\n.*prompt_id z, sample 2"):
        find_competitors(responses, [Score(), *scores[1:]])
