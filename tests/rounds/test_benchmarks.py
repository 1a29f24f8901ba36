"""`judge.benchmarks` on a run that was judged before: an added one is run alone, and the results of the others stay."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from icr.base.errors import UserError
from icr.base.files import read_json
from icr.base.rundir import RunDir
from icr.rounds.controller import Controller
from icr.rounds.preflight import load_checked
from tests.conftest import Config
from tests.helpers.inline import run_inline, silent

JUDGE = """
class First:
    def preferences(self, rows):
        return [0.75 for row in rows]
"""
BOTH = "judge.benchmarks=[xalpaca, accuracy]"


def iterate(config: Path, run: Path, *overrides: str) -> RunDir:
    resolved, inputs = load_checked(config, overrides, {"run": str(run)})
    controller = Controller(RunDir(run), resolved, inputs, silent())
    try:
        controller.iterate()
    finally:
        controller.close()
    return controller.run


def files(run: RunDir) -> dict[str, int]:
    return {
        str(p.relative_to(run.path)): p.stat().st_mtime_ns
        for p in run.path.glob("round-*/**/*")
        if p.is_file() and p.name != "round.json"
    }


@pytest.fixture(scope="module")
def tasks() -> Iterator[list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        yield run_inline(patch)


@pytest.fixture(scope="module")
def config(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks")
    (folder / "own.py").write_text(JUDGE)
    return tiny_config(folder, rounds=1, judge={"kind": f"{folder / 'own.py'}:First", "model": None})


@pytest.fixture(scope="module")
def finished(config: Path, tasks: list[str]) -> RunDir:
    return iterate(config, config.parent / "run")


@pytest.fixture
def run(finished: RunDir, tmp_path: Path, tasks: list[str]) -> RunDir:
    """A copy of a run of which X-AlpacaEval is done, and no tasks so far."""
    shutil.copytree(finished.path, tmp_path / "run")
    tasks.clear()
    return RunDir(tmp_path / "run")


def test_an_added_benchmark_is_run_alone(config: Path, run: RunDir, tasks: list[str]) -> None:
    before = files(run)
    counts = run.round(1).record.stages["judge"].counts
    iterate(config, run.path, BOTH)
    after = files(run)
    assert before.items() <= after.items()
    assert {name for name in after.keys() - before.keys() if not name.startswith("round-1/judge/accuracy")} == set()
    assert set(tasks) == {"ask"}  # nothing is sampled, and nothing is judged for X-AlpacaEval
    record = run.round(1).record.stages["judge"]
    added = {"reward_accuracy": read_json(run.round(1).judge / "accuracy" / "summary.json")["average"]["accuracy"]}
    assert record.state == "done" and record.counts == counts | added
    assert record.parts == {"xalpaca": counts, "accuracy": added}
    assert record.settings["judge.benchmarks"] == ["accuracy", "xalpaca"]
    tasks.clear()
    iterate(config, run.path, BOTH)
    assert not tasks and files(run) == after


def test_a_benchmark_that_is_taken_out_stays_and_comes_back(config: Path, run: RunDir, tasks: list[str]) -> None:
    iterate(config, run.path, BOTH)
    both = files(run)
    tasks.clear()
    for benchmarks in ("[xalpaca]", "[accuracy]", "[accuracy, xalpaca]"):
        iterate(config, run.path, f"judge.benchmarks={benchmarks}")
        assert run.round(1).done("judge")
    assert not tasks and files(run) == both


def test_a_kill_between_two_benchmarks_keeps_the_first(
    config: Path, run: RunDir, tasks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from eval.benchmarks import BENCHMARKS

    whole = BENCHMARKS["accuracy"]

    def killed(evaluation: object) -> dict[str, object]:
        raise KeyboardInterrupt

    monkeypatch.setitem(BENCHMARKS, "accuracy", killed)
    before = files(run)
    with pytest.raises(KeyboardInterrupt):
        iterate(config, run.path, BOTH)
    assert set(run.round(1).record.stages["judge"].parts) == {"xalpaca"} and not run.round(1).done("judge")
    monkeypatch.setitem(BENCHMARKS, "accuracy", whole)
    iterate(config, run.path, BOTH)
    assert before.items() <= files(run).items() and set(tasks) == {"ask"}
    assert run.round(1).done("judge")


def test_other_changes_beside_are_refused_as_ever(config: Path, run: RunDir) -> None:
    with pytest.raises(UserError, match=r"judge\.orders: both → seeded"):
        iterate(config, run.path, BOTH, "judge.orders=seeded")
    assert run.round(1).done("judge")


def test_a_run_of_an_older_version_takes_a_benchmark_as_well(config: Path, run: RunDir) -> None:
    for file in run.path.glob("round-*/round.json"):
        record = json.loads(file.read_text())
        for stage in record["stages"].values():
            for key in ("key", "inputs", "settings", "parts"):
                del stage[key]
        file.write_text(json.dumps(record))
    before = files(run)
    iterate(config, run.path, BOTH)
    assert before.items() <= files(run).items() and "round-1/judge/accuracy/summary.json" in files(run)
