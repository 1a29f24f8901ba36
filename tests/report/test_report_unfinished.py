"""The report of runs that are unfinished, damaged, or lack a part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from icr.base.errors import UserError
from icr.base.files import write_text
from icr.base.rundir import RunDir
from icr.report.page import write_report
from icr.report.results import read_metrics
from tests.helpers.fake_run import build, config_of
from tests.helpers.pages import assert_sound, page


@pytest.fixture
def short(tmp_path: Path) -> RunDir:
    """A finished run of one round, to be damaged."""
    return build(tmp_path / "short", rounds=1)


@pytest.mark.parametrize(
    ("until", "says", "figures"),
    [
        ((0, "judge"), ["No round has been judged yet", "Round 0: not run yet: judge.", "No pairs have been made"], 3),
        (
            (1, "sample"),
            [
                "there are only the answers of round 0",
                "Round 1: sample is not finished; not run yet: score, pair, train, judge.",
            ],
            1 + 3,
        ),
        ((1, "pair"), ["Round 1: pair is not finished; not run yet: train, judge."], 3 + 3),
        ((2, "score"), ["Round 2: score is not finished", "1 of 2", "After round 1"], 9 + 3),
    ],
)
def test_unfinished_runs_are_shown_as_far_as_they_go(
    tmp_path: Path, until: tuple[int, str], says: list[str], figures: int
) -> None:
    got = page(build(tmp_path / "run", until=until, running=until != (0, "judge")))
    assert_sound(got)
    assert "Not complete." in got.text
    assert got.count("svg") == figures
    for text in says:
        assert text in got.text, text


def test_empty_folder_has_a_report(tmp_path: Path) -> None:
    got = page(RunDir(tmp_path / "nothing"))
    assert_sound(got)
    assert "no config.yaml" in got.text and "No stage has run yet" in got.text


def test_run_without_judge_says_so(tmp_path: Path) -> None:
    run = build(tmp_path / "run", rounds=1, judge="none")
    got = page(run)
    assert_sound(got)
    assert "This run has no judge" in got.text and "Not complete" not in got.text
    assert got.count("svg") == 1 + 5 + 3


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    run = build(tmp_path / "run", until=(2, "train"))
    pairs = run.round(2).pairs
    pairs.write_bytes(pairs.read_bytes()[:1000])
    run.round(1).lengths.unlink()
    write_text(run.round(1).train / "metrics.jsonl", '{"step": 1, "loss": 1.0}\n{"loss"\n{"step": 2}\n')
    got = page(run)
    assert_sound(got)
    assert "round-2/pairs.parquet cannot be read" in got.text
    assert "round-1/train/metrics.jsonl cannot be read" in got.text
    assert "round-1/lengths.json is missing, although its stage is done" in got.text
    assert "round 1 · widest margin" in got.text and "round 2 · widest" not in got.text, (
        "the last round with readable pairs gives the examples"
    )


def test_unreadable_config_and_record_are_the_users_to_fix(short: RunDir) -> None:
    write_text(short.config, "rounds: [")
    with pytest.raises(UserError, match=r"config\.yaml"):
        write_report(short)
    write_text(short.config, yaml.safe_dump(config_of()))
    write_text(short.round(1).record_path, "{")
    with pytest.raises(UserError, match=r"round\.json"):
        write_report(short)


def metrics(path: Path, rows: list[dict[str, Any]], tail: str = "") -> Path:
    write_text(path, "".join(json.dumps(r) + "\n" for r in rows) + tail)
    return path


def test_resumed_training_counts_each_step_once(tmp_path: Path) -> None:
    rows = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.5}, {"step": 2, "loss": 2.0}, {"step": 3, "loss": 1.0}]
    got = read_metrics(metrics(tmp_path / "metrics.jsonl", rows, tail='{"step": 4, "lo'))
    assert [(r["step"], r["loss"]) for r in got] == [(1, 3.0), (2, 2.0), (3, 1.0)]


def test_lost_losses_and_long_kto_trainings(short: RunDir) -> None:
    rows = [{"step": s, "loss": float("nan") if s % 100 == 0 else 1.0, "kl": 0.1} for s in range(1, 501)]
    metrics(short.round(1).train / "metrics.jsonl", rows)
    got = page(short)
    assert_sound(got)
    assert "5 of 500 steps have no finite loss." in got.text
    assert "Trainings with more than 160 steps are drawn as means of neighbouring steps." in got.text
    assert "KTO's estimate" in got.text


def test_a_run_without_xalpaca_lacks_nothing(short: RunDir) -> None:
    config = yaml.safe_load(short.config.read_text(encoding="utf-8"))
    write_text(short.config, yaml.safe_dump(config | {"judge": config["judge"] | {"benchmarks": ["mtbench"]}}))
    for n in (0, 1):
        short.round(n).summary.unlink()
    got = page(short)
    assert "although its stage is done" not in got.text
    assert "X-AlpacaEval is not in" in got.text
