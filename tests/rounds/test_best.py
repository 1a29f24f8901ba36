from __future__ import annotations

import json
from pathlib import Path

import pytest

from icr.base.errors import UserError
from icr.base.rundir import RunDir, StageRecord
from icr.rounds import best as module
from icr.rounds.best import find_best, is_worse


def judged(run: RunDir, number: int, right: float) -> None:
    at = run.round(number)
    at.judge.mkdir(parents=True)
    if number:
        at.model.mkdir()
    at.summary.write_text(
        json.dumps({"average": {}, "languages": {"es": {"right_language": right}, "sw": {"right_language": None}}})
    )


@pytest.fixture
def compared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> tuple[RunDir, dict[tuple[str, str], tuple[float, float]]]:
    """A run of four judged rounds, and its intervals by (before, after): filled by the test."""
    run, intervals = RunDir(tmp_path), dict[tuple[str, str], tuple[float, float]]()

    def compare(before: Path, after: Path, benchmark: str) -> dict[str, object]:
        low, high = intervals[before.parent.name[-1], after.parent.name[-1]]
        return {"average": {"difference": (low + high) / 2, "low": low, "high": high}}

    monkeypatch.setattr(module, "compare", compare)
    (tmp_path / "round-0").mkdir()
    (tmp_path / "round-0" / "model.json").write_text('{"policy": "org/chat", "reference": "org/base"}')
    return run, intervals


def test_a_round_has_to_be_better_beyond_chance(compared) -> None:  # type: ignore[no-untyped-def]
    run, intervals = compared
    for number, right in enumerate((0.9, 0.9, 0.88, 0.5)):
        judged(run, number, right)
    intervals |= {("0", "1"): (2.0, 8.0), ("1", "2"): (-1.0, 5.0), ("1", "3"): (4.0, 9.0)}
    found = find_best(run)
    assert [step.verdict for step in found.steps] == ["better", "no difference", "wrong language"]
    assert found.number == 1 and found.steps[2].right_language == pytest.approx(-0.4)
    assert found.steps[0].explain() == "round 1 against round 0: +5.0 points of win rate [+2.0, +8.0]: better"
    assert "-40 points of answers in the right language" in found.steps[2].explain()


def test_a_model_that_is_gone_is_not_another_one(compared) -> None:  # type: ignore[no-untyped-def]
    run, intervals = compared
    for number in (0, 1):
        judged(run, number, 0.9)
    run.round(1).model.rmdir()
    intervals["0", "1"] = (-1.0, 8.0)
    assert find_best(run).model == "org/chat", "it is not the one to take"
    intervals["0", "1"] = (2.0, 8.0)
    with pytest.raises(UserError, match="round 1 is the one to take, and its model is gone") as caught:
        find_best(run)
    assert caught.value.where == str(run.round(1).model) and "backup" in caught.value.do
    intervals["0", "1"] = (-9.0, -2.0)
    run.round(0).write_stage("align", StageRecord(state="done", started=0.0))
    with pytest.raises(UserError, match="round 0 is the one to take, and its model is gone"):
        find_best(run)


def test_why_there_is_no_interval_is_said(compared, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    run, _ = compared
    for number in (0, 1):
        judged(run, number, 0.9)
    equal = {"average": {"difference": 0.0, "low": None, "high": None, "why": "all values are equal"}}
    monkeypatch.setattr(module, "compare", lambda before, after, benchmark: equal)
    [step] = find_best(run).steps
    assert step.explain() == "round 1 against round 0: +0.0 points of win rate: no interval: all values are equal"


def test_the_first_round_stays_where_none_is_better(compared) -> None:  # type: ignore[no-untyped-def]
    run, intervals = compared
    judged(run, 0, 0.9)
    with pytest.raises(UserError, match="a comparison needs two"):
        find_best(run)
    judged(run, 1, 0.9)
    intervals[("0", "1")] = (-9.0, -2.0)
    assert find_best(run).model == "org/chat"
    step = is_worse(run, 1)
    assert step is not None and step.verdict == "worse"
    assert is_worse(run, 0) is None  # nothing before it
    assert is_worse(run, 2) is None  # not judged
    intervals[("0", "1")] = (-9.0, 1.0)
    assert is_worse(run, 1) is None


def test_a_run_stops_before_the_next_round(compared, tiny_config, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from rich.console import Console

    from icr.rounds.controller import Controller
    from icr.rounds.preflight import load_checked

    run, intervals = compared
    judged(run, 0, 0.9)
    judged(run, 1, 0.9)
    intervals[("0", "1")] = (-9.0, -2.0)
    folder = tmp_path / "config"
    folder.mkdir()
    for asked, stops in (("worse", True), ("never", False)):
        config, inputs = load_checked(tiny_config(folder, stop_when=asked, rounds=3))
        controller = Controller(run, config, inputs, Console(quiet=True))
        try:
            assert controller._stops(2) is stops
        finally:
            controller.close()
