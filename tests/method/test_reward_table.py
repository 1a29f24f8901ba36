from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest

from icr.base.errors import UserError
from icr.config.schema import Reward
from icr.pairs import build_pairs
from icr.reward_table import reward_language
from icr.rewards import Score
from icr.rows import RESPONSES, REWARDS
from tests.helpers.tables import ENGLISH, SPANISH, Row, response, score_language


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
    with pytest.raises(
        UserError, match=r"no prompt in es has two responses.*of 3 responses: 1 empty, 2 dropped \(wrong language\)"
    ):
        score_language(responses, [0.0] * 3, [0.0] * 3, Reward(drop_wrong_language=True), "es")


def test_answers_in_another_language_are_rejected_where_the_config_says_so() -> None:
    """α is that of the filter; one of them is rejected although its reward is higher."""
    scored, responses = filtered(Reward(reject_wrong_language=True))
    assert scored == filtered(Reward(drop_wrong_language=True))[0]
    pairs = build_pairs(responses, scored.rows, reject_wrong_language=True).pairs
    assert [(p["prompt_id"], p["chosen_sample"], p["rejected_sample"]) for p in pairs] == [("p", 2, 3), ("q", 0, 1)]


def test_a_log_prob_that_is_not_finite_is_named() -> None:
    responses = [response("p", i, f"texto {i}") for i in range(2)]
    with pytest.raises(UserError, match=r"the reward is nan, from log-probabilities nan.*\n.*prompt_id p, sample 1"):
        score_language(responses, [0.0, float("nan")], [0.0, -1.0], Reward(), "es")


def test_as_many_log_probs_as_responses() -> None:
    responses = [response("p", i, f"texto {i}") for i in range(2)]
    with pytest.raises(ValueError, match="shorter"):
        score_language(responses, [0.0], [0.0], Reward(), "es")


def test_tables_fit_the_run_folder() -> None:
    scored, responses = filtered(Reward())
    assert pa.Table.from_pylist(responses, schema=RESPONSES).num_rows == 7
    assert pa.Table.from_pylist(scored.rows, schema=REWARDS).to_pylist() == scored.rows


def test_what_the_kind_drops_goes_before_the_filters_and_is_counted() -> None:
    responses = [response("p", i, f"{SPANISH} {i}", "length" if i == 0 else "stop") for i in range(4)]
    scores = [Score(dropped="too_long"), Score(1.0), Score(dropped="too_long"), Score(2.0)]
    config = Reward(drop_truncated=True, length_penalty=0.5)
    scored = reward_language(responses, scores, config, "es", scale="logit", reasons=("too_long", "other"))
    assert scored.counts["dropped"] == {"truncated": 0, "wrong_language": 0, "too_long": 2, "other": 0}
    assert scored.counts["truncated"] == 1
    size = len(SPANISH) + 2
    assert [row["reward"] for row in scored.rows] == [None, 1.0 - size / 2, None, 2.0 - size / 2]
    assert scored.length_penalty is not None
    assert (scored.length_penalty["scale"], scored.length_penalty["beta"]) == ("logit", None)


def test_scores_without_rewards_have_no_penalty() -> None:
    responses = [response("p", i, text, "length") for i, text in enumerate(["uno", ENGLISH])]
    scored = reward_language(responses, [Score()] * 2, Reward(drop_wrong_language=True), "es", scale=None)
    assert scored.length_penalty is None
    assert [(row["reward"], row["length"], row["dropped"]) for row in scored.rows] == [
        (None, 3, None),
        (None, len(ENGLISH), "wrong_language"),
    ]
    assert scored.counts["dropped"] == {"truncated": 0, "wrong_language": 1}
