"""The terminal tables, on an invented run (tests/fake_run.py)."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import ttest_1samp

from icr.base.files import read_json, read_rows, write_json
from icr.base.rundir import RunDir
from icr.report.numbers import duration, number, significant
from icr.report.status import continue_command, run_status, status_json, status_table
from icr.report.terminal import print_summary
from tests.helpers.fake_run import HELD_OUT, LANGUAGES, build


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return build(tmp_path_factory.mktemp("runs") / "quickstart")


def printed(run: RunDir) -> str:
    out = io.StringIO()
    print_summary(run, Console(file=out, width=80))
    return out.getvalue()


def test_summary_of_runs_without_a_comparison(tmp_path: Path) -> None:
    no_judge = printed(build(tmp_path / "no-judge", rounds=1, judge="none"))
    assert "this run has no judge" in no_judge and "mean reward margin" in no_judge
    assert "no round has been judged yet" in printed(build(tmp_path / "unjudged", until=(0, "judge")))
    baseline = printed(build(tmp_path / "baseline", until=(1, "sample")))
    assert "The first comparison comes after round 1" in baseline and "judged by" not in baseline


def test_numbers_read_well() -> None:
    assert [number(x) for x in (None, float("nan"), -0.04, -1.25, 12345.6)] == ["–", "–", "0.0", "−1.2", "12,345.6"]
    assert number(3.0, 1, sign=True) == "+3.0"
    assert [significant(x) for x in (0.004, -0.0012345, None)] == ["0.00400", "−0.00123", "–"]
    assert [duration(x) for x in (0.42, 59.6, 174.2, 8000.0)] == ["0.4 s", "60 s", "2 min 54 s", "2 h 13 min"]


def test_summary_fits_a_terminal_and_marks_what_has_changed_for_sure(finished: RunDir) -> None:
    text = printed(finished)
    lines = text.splitlines()
    assert all(len(line) <= 80 for line in lines)
    # of the prompts' differences, by hand: which languages' t intervals are above 0
    sure, changes = [], []
    for lang in (*LANGUAGES, "average"):
        values = [_items(finished, n, code) for n in (0, 2) for code in (LANGUAGES if lang == "average" else (lang,))]
        half = len(values) // 2
        change = np.mean(values[half:], axis=0) - np.mean(values[:half], axis=0)
        changes.append(ttest_1samp(change, 0).confidence_interval().low > 0)
        sure += [lang] if changes[-1] else []
    marked = [line.split() for line in lines if line.split()[:1] == ["2"]]
    assert [row[-1] == "▲" for row in marked] == changes, sure
    assert 1 < len(sure) < 6
    assert marked[2] == ["2", "71.0", "±", "6.3", "68.2", "±", "6.3", "516", "89", "%", "+21.0", "▲"]
    assert "No LC for ar in round 1: all lengths are equal." in " ".join(text.split())
    assert "judged by SmolLM2-135M-Instruct (local) on 36 to 40 prompts" in " ".join(text.split())


def _items(run: RunDir, number: int, lang: str) -> list[float]:
    """Win rates by prompt; of round 0, which is the baseline, 50."""
    if number == 0:
        return [50.0] * HELD_OUT
    rows = read_rows(run.round(number).judge / "verdicts" / f"{lang}.parquet")
    return [100 * row["preference"] for row in rows if row["order"] == "policy-first"]


def test_status_of_an_interrupted_run(tmp_path: Path) -> None:
    run = build(tmp_path / "run", until=(2, "score"), running=True)
    status = status_json(run, held=False)
    assert (status["rounds"], status["rounds_done"]) == (2, 1)
    assert status["next"] == {
        "round": 2,
        "stage": "score",
        "state": "interrupted",
        "seconds": 12.0,
        "started": status["next"]["started"],
        "finished": None,
    }
    states = {(s["round"], s["stage"]): s["state"] for s in status["stages"]}
    assert len(states) == 12
    assert (states[1, "judge"], states[2, "sample"], states[2, "train"]) == ("done", "done", "waiting")
    assert json.loads(json.dumps(status)) == status
    held = run_status(run, held=True).next
    assert held is not None and held.state == "running"
    out = io.StringIO()
    Console(file=out, width=80).print(status_table(run, held=False))
    assert "1 of 2 rounds done" in out.getvalue() and "interrupted" in out.getvalue()
    assert "next: score of round 2" in out.getvalue()
    command = continue_command(str(run.path))
    assert status["running"] is False and "no command is using this run; to continue:" in out.getvalue()
    assert command in "".join(line.strip() for line in out.getvalue().splitlines()).replace("--run/", "--run /")
    out = io.StringIO()
    Console(file=out, width=100).print(status_table(run, held=True))
    assert "to continue" not in out.getvalue()


def test_status_fits_a_terminal_of_80_columns_however_long_the_stages_took(tmp_path: Path) -> None:
    run = build(tmp_path / "long", rounds=2, until=(2, "score"), running=True)
    for at in run.rounds():
        record = read_json(at.path / "round.json")
        for stage in record["stages"].values():
            stage["seconds"] = 5000.0  # 83 min
        write_json(at.path / "round.json", record)
    for held, word in ((False, " interrupted "), (True, " running 83 min ")):
        out = io.StringIO()
        Console(file=out, width=80).print(status_table(run, held=held))
        assert out.getvalue().count("✓ 83 min") == 8 and word in out.getvalue() and "6.9 h" in out.getvalue()


def test_status_of_a_finished_run(finished: RunDir) -> None:
    status = run_status(finished)
    assert (status.next, status.rounds_done) == (None, 2)
    out = io.StringIO()
    Console(file=out, width=80).print(status_table(finished))
    assert "all rounds are done" in out.getvalue()
