"""The time of a run whose judge is asked beside the next round, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from icr.planning.elapsed import elapse
from icr.planning.plan import RunCost, know, make_plan
from icr.rounds.preflight import load_checked
from tests.conftest import Config


def test_verdicts_count_where_they_are_waited_for() -> None:
    """20 of a judge stage's 30 seconds go on beside a round of 15 or 50; the last judge is waited for."""
    share = 2 / 3
    assert elapse([("judge", 30, share), ("train", 15, 0), ("judge", 30, 0)]) == pytest.approx(10 + 20 + 30)
    assert elapse([("judge", 30, share), ("train", 50, 0), ("judge", 30, 0)]) == pytest.approx(10 + 50 + 30)
    assert elapse([("judge", 30, share), ("train", 15, 0)]) == pytest.approx(10 + 20)  # nothing is judged at the end
    assert elapse([("judge", 30, 0), ("train", 15, 0)]) == 45 and elapse([]) == 0


def make_cost(tiny_config: Config, folder: Path, judge: dict[str, Any], **changes: Any) -> RunCost:
    checked, inputs = load_checked(tiny_config(folder, rounds=3, judge=judge, **changes))
    return make_plan(know(checked, inputs, gpu="h100"), 1)


def test_the_sum_of_a_plan_knows_what_is_judged_beside_the_next_round(tiny_config: Config, tmp_path: Path) -> None:
    endpoint = {"kind": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1", "concurrency": 1}
    cost = make_cost(tiny_config, tmp_path / "endpoint", endpoint)
    shares = {of.round: of.beside for of in cost.stages if of.stage == "judge"}
    assert shares[0] == shares[3] == 0 < shares[1] == shares[2] < 1  # round 0 is what the others are compared with
    by = {(of.round, of.stage): of.seconds for of in cost.stages}
    answers = {n: by[n, "judge"] * (1 - shares[n]) for n in range(4)}
    asked = {n: by[n, "judge"] * shares[n] for n in range(4)}
    rounds = {n: sum(s for (of, stage), s in by.items() if of == n and stage != "judge") for n in range(4)}
    by_hand = answers[0] + rounds[1] + answers[1]
    by_hand += max(asked[1], rounds[2]) + answers[2] + max(asked[2], rounds[3]) + by[3, "judge"]
    assert cost.total()[0] == pytest.approx(by_hand) and by_hand < sum(by.values()) - 10
    low, high = cost.total()[1:]
    assert low < cost.total()[0] < high < sum(of.high for of in cost.stages)
    for other in (
        make_cost(tiny_config, tmp_path / "waits", endpoint, stop_when="worse"),
        make_cost(tiny_config, tmp_path / "local", {}),
    ):
        assert other.total()[0] == pytest.approx(sum(of.seconds for of in other.stages))
