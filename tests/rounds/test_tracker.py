"""`train.report_to`: one tracker run for a run folder, also after a restart."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from icr.base.rundir import RunDir
from icr.config.load import make_config
from icr.rounds.controller import Controller
from icr.rounds.preflight import load_checked
from icr.rounds.tracker import Tracker
from tests.conftest import Config
from tests.helpers.fake_run import STEPS, build
from tests.helpers.inline import run_inline, silent


class Stub(TrainerCallback):
    """A tracker, through the interface that transformers has for all of them."""

    begun: list[dict[str, Any]]
    values: list[tuple[int, dict[str, float]]]
    ended = 0
    fails = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        names = ("TENSORBOARD_LOGGING_DIR", "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_PROJECT")
        found = {name: os.environ.get(name) for name in names}
        Stub.begun.append({**found, "name": args.run_name, "config": args.to_dict()})

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if Stub.fails:
            raise ConnectionError("no network")
        Stub.values.append((state.global_step, logs))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        Stub.ended += 1


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> type[Stub]:
    Stub.begun, Stub.values, Stub.ended, Stub.fails = [], [], 0, False
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "stub", Stub)
    return Stub


def follow(run: RunDir, notes: list[str], report_to: str = "stub") -> None:
    """One command on the run."""
    config = make_config({**yaml.safe_load(run.config.read_text(encoding="utf-8")), "train": {"report_to": report_to}})
    tracker = Tracker(run, config, notes.append)
    tracker.update()
    tracker.close()


def test_one_run_with_every_figure_once(tmp_path: Path, stub: type[Stub]) -> None:
    notes: list[str] = []
    for until in ((1, "train"), (2, "sample"), (99, "judge"), (99, "judge")):
        follow(build(tmp_path / "run", until=until), notes)
    assert not notes
    of_round = [
        (logs["round"], name) for _, logs in stub.values for name in logs if "alpha/" in name or "eval_" in name
    ]
    assert len(of_round) == len(set(of_round)) and {(1, "alpha/es"), (2, "eval_win_rate/es")} <= set(of_round)
    steps = [step for step, logs in stub.values if "loss" in logs]
    assert steps == list(range(1, 3 * STEPS + 1))
    assert [step for step, _ in stub.values] == sorted(step for step, _ in stub.values)
    first, *others = stub.begun
    assert len(others) == 2 and all(other == first for other in others)  # the last command has nothing new
    assert first["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / "run" / "tracker") and first["WANDB_RESUME"] == "allow"
    assert first["name"] == f"run-{first['WANDB_RUN_ID']}" and first["config"]["objective"] == "dpo"
    assert "WANDB_RUN_ID" not in os.environ and stub.ended == 3


def test_figures_are_those_of_the_run(tmp_path: Path, stub: type[Stub]) -> None:
    run = build(tmp_path / "run")
    follow(run, [])
    summary = json.loads(run.round(2).summary.read_text())
    fits = json.loads(run.round(2).lengths.read_text())
    sampled = run.round(2).record.stages["sample"].counts["languages"]["ru"]
    (step, judged), *_ = [(step, logs) for step, logs in reversed(stub.values) if "eval_win_rate/es" in logs]
    assert step == 3 * STEPS and judged["round"] == 2
    row = summary["languages"]["es"]
    assert [judged[f"eval_win_rate_{end}/es"] for end in ("low", "high")] == row["win_rate_interval"]
    assert judged["eval_win_rate/average"] == summary["average"]["win_rate"]
    found = {name: value for _, logs in stub.values if logs["round"] == 2 for name, value in logs.items()}
    assert found["alpha/de"] == fits["de"]["alpha"] and found["mean_length/ru"] == sampled["mean_length"]
    assert found["truncated_share/ru"] == sampled["truncated"] / sampled["responses"]
    assert found["wrong_language_share/ar"] == 16 / sampled["responses"] and found["dropped_share/ar"] == 0


def test_a_tracker_that_fails_ends_no_run(tmp_path: Path, stub: type[Stub]) -> None:
    notes: list[str] = []
    stub.fails = True
    follow(build(tmp_path / "run"), notes)
    assert notes == ["stub gets no more values: ConnectionError: no network"]


def test_nothing_is_opened_unasked(tmp_path: Path, stub: type[Stub]) -> None:
    run = build(tmp_path / "run")
    follow(run, [], report_to="none")
    assert not stub.begun and not (run.path / "tracker.json").exists()


def test_a_run_reports_by_itself(
    tmp_path: Path, tiny_config: Config, stub: type[Stub], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_inline(monkeypatch)
    monkeypatch.setattr("transformers.integrations.get_available_reporting_integrations", lambda: ["stub"])
    config, inputs = load_checked(tiny_config(tmp_path, rounds=1, train={"report_to": "stub"}))
    run = RunDir(tmp_path / "run")
    controller = Controller(run, config, inputs, silent())
    try:
        controller.iterate()
    finally:
        controller.close()
    rows = [json.loads(line) for line in (run.round(1).train / "metrics.jsonl").read_text().splitlines()]
    assert [logs["loss"] for _, logs in stub.values if "loss" in logs] == [row["loss"] for row in rows]
    assert len(stub.begun) == 1 and stub.ended == 1  # the training itself has opened none
    assert {"alpha/es", "pairs/ru"} <= {name for _, logs in stub.values for name in logs}
    assert len([logs for _, logs in stub.values if "eval_win_rate/es" in logs]) == 2
