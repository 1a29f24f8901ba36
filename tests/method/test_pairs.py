from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icr.base.errors import UserError
from icr.config.schema import Reward
from icr.pairs import build_pairs, find_candidates
from icr.reward_table import ScoredLanguage, reward_language
from icr.rewards import score_ratios
from icr.rows import PAIRS, RESPONSES, REWARDS

Row = dict[str, Any]
SPANISH = "El tren sale al mediodía, así que deberíamos llegar un poco antes a la estación."
ENGLISH = "The train leaves at noon, so we should be at the station a little earlier."


def score_language(
    responses: list[dict[str, Any]], policy: Any, reference: Any, config: Reward, lang: str
) -> ScoredLanguage:
    return reward_language(responses, score_ratios(policy, reference, config.beta), config, lang)


def response(
    prompt_id: str, sample: int, text: str, finish_reason: str = "stop", tokens: int = 3, prompt_ids: Any = None
) -> Row:
    return {
        "prompt_id": prompt_id,
        "lang": "es",
        "sample": sample,
        "prompt": f"¿{prompt_id}?",
        "response": text,
        "token_ids": list(range(sample, sample + tokens)),
        "finish_reason": finish_reason,
        "prompt_ids": prompt_ids or [],
    }


def reward(prompt_id: str, sample: int, value: float, dropped: str | None = None, length: int = 0) -> Row:
    return {
        "prompt_id": prompt_id,
        "sample": sample,
        "policy_logp": value,
        "reference_logp": 0.0,
        "length": length,
        "reward": value,
        "truncated": False,
        "detected_lang": None,
        "dropped": dropped,
    }


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
    with pytest.raises(UserError, match=r"there is a response, but no reward\n.*prompt_id p, sample 1"):
        build_pairs(responses, rewards[:1])
    with pytest.raises(UserError, match=r"there is a reward, but no response\n.*prompt_id p, sample 0"):
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


def scored_fixture(config: Reward) -> tuple[list[Row], np.ndarray, np.ndarray, Any]:
    rng = np.random.default_rng(3)
    responses = [
        response(f"p{p}", i, "x" * int(rng.integers(5, 400)) + f" {p} {i}", tokens=int(rng.integers(2, 90)))
        for p in range(30)
        for i in range(5)
    ]
    unit = [len(r["response"]) if config.length_unit == "characters" else len(r["token_ids"]) for r in responses]
    reference = rng.normal(-200, 40, size=150)
    policy = reference + 0.08 * np.array(unit) + rng.normal(0, 4, size=150)
    return responses, policy, reference, score_language(responses, policy, reference, config, "es")


@pytest.mark.parametrize("unit", ["characters", "tokens"])
def test_the_fitted_gap_is_the_gap_of_the_pairs(unit: Literal["characters", "tokens"]) -> None:
    config = Reward(length_unit=unit)
    responses, policy, reference, scored = scored_fixture(config)
    result = build_pairs(responses, scored.rows)
    entry = scored.length_penalty
    assert result.counts["pairs"] == entry["prompts"] == 30
    assert result.counts["chosen_length"] - result.counts["rejected_length"] == pytest.approx(entry["gap"], abs=1e-12)
    assert abs(entry["gap"]) < abs(entry["gap_without_penalty"]) / 10
    assert (entry["unit"], entry["beta"], entry["responses"]) == (unit, 0.1, 150)
    assert entry["scale"] == "beta*(policy_logp-reference_logp)"
    assert len(entry["curve"]) == 101
    for row, text, p, q in zip(scored.rows, responses, policy, reference, strict=True):
        assert row["length"] == (len(text["response"]) if unit == "characters" else len(text["token_ids"]))
        assert row["reward"] == 0.1 * (p - q) - entry["alpha"] * row["length"]


@pytest.mark.parametrize(("setting", "alpha"), [("none", 0.0), (0.004, 0.004)])
def test_a_given_length_penalty_is_used_and_reported(setting: Any, alpha: float) -> None:
    responses, policy, reference, scored = scored_fixture(Reward(length_penalty=setting))
    entry = scored.length_penalty
    assert entry["alpha"] == alpha
    lengths = np.array([len(r["response"]) for r in responses])
    rewards = (0.1 * (policy - reference) - alpha * lengths).reshape(30, 5)
    lengths = lengths.reshape(30, 5)
    rows = np.arange(30)
    expected = (lengths[rows, rewards.argmax(1)] - lengths[rows, rewards.argmin(1)]).mean()
    assert entry["gap"] == pytest.approx(expected)
    assert entry["curve"][50] == [alpha, entry["gap"]]
    assert [row["reward"] for row in scored.rows] == rewards.ravel().tolist()


def filtered(config: Reward) -> tuple[Any, list[Row]]:
    """Two prompts; an English answer, a truncated one, one that is both, an empty one, and three good ones."""
    responses = [
        response("p", 0, SPANISH),
        response("p", 1, ENGLISH),
        response("p", 2, "  " + SPANISH * 2 + "\n", "length"),
        response("p", 3, ENGLISH * 2, "length"),
        response("p", 4, " "),
        response("q", 0, SPANISH + " Sí."),
        response("q", 1, SPANISH + " No, mejor mañana."),
    ]
    policy = [-10.0, -1.0, -2.0, -3.0, 0.0, -5.0, -6.0]
    return score_language(responses, policy, [-8.0] * 7, config, "es"), responses


def test_everything_is_counted_and_nothing_dropped_by_default() -> None:
    scored, _ = filtered(Reward())
    assert scored.counts == {
        "responses": 7,
        "truncated": 2,
        "wrong_language": 2,
        "empty": 1,
        "dropped": {"truncated": 0, "wrong_language": 0},
    }
    assert [row["detected_lang"] for row in scored.rows] == ["es", "en", "es", "en", None, "es", "es"]
    assert [row["truncated"] for row in scored.rows] == [False, False, True, True, False, False, False]
    assert {row["dropped"] for row in scored.rows} == {None}
    assert scored.rows[2]["length"] == 2 * len(SPANISH)  # without the white space around it
    assert (scored.length_penalty["prompts"], scored.length_penalty["responses"]) == (2, 6)


def test_filters_take_responses_out_before_alpha_is_fitted() -> None:
    scored, responses = filtered(Reward(drop_truncated=True, drop_wrong_language=True))
    assert scored.counts["dropped"] == {"truncated": 2, "wrong_language": 1}
    assert (scored.counts["truncated"], scored.counts["wrong_language"]) == (2, 2)
    assert [row["dropped"] for row in scored.rows] == [None, "wrong_language", "truncated", "truncated", *[None] * 3]
    assert (scored.length_penalty["prompts"], scored.length_penalty["responses"]) == (1, 2)
    result = build_pairs(responses, scored.rows)
    assert result.counts["dropped"] == {"identical": 0, "equal_reward": 0, "empty": 1, "too_few": 1}
    assert [pair["prompt_id"] for pair in result.pairs] == ["q"]


def test_a_language_without_anything_to_compare_is_an_error() -> None:
    responses = [response("p", i, ENGLISH) for i in range(2)] + [response("p", 2, "")]
    with pytest.raises(UserError, match=r"no prompt in es has two responses.*of 3 responses \(1 empty"):
        score_language(responses, [0.0] * 3, [0.0] * 3, Reward(drop_wrong_language=True), "es")


def test_a_log_prob_that_is_not_finite_is_named() -> None:
    responses = [response("p", i, f"texto {i}") for i in range(2)]
    with pytest.raises(UserError, match=r"the reward is nan, of log-probabilities nan.*\n.*prompt_id p, sample 1"):
        score_language(responses, [0.0, float("nan")], [0.0, -1.0], Reward(), "es")


def test_as_many_log_probs_as_responses() -> None:
    responses = [response("p", i, f"texto {i}") for i in range(2)]
    with pytest.raises(ValueError, match="shorter"):
        score_language(responses, [0.0], [0.0], Reward(), "es")


def test_tables_fit_the_run_folder() -> None:
    scored, responses = filtered(Reward())
    assert pa.Table.from_pylist(responses, schema=RESPONSES).num_rows == 7
    assert pa.Table.from_pylist(scored.rows, schema=REWARDS).to_pylist() == scored.rows
