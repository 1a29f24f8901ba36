"""Every benchmark in one run's judge stages, by an endpoint that takes a key, and what the report makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from icr.base.files import read_json
from icr.base.rundir import RunDir
from icr.config.load import load_config
from tests.commands.test_judge_cli import write_questions
from tests.helpers.command import icr
from tests.helpers.inline import run_inline
from tests.helpers.quiz import write_tasks
from tests.helpers.stub_server import Answer, Stub, says

KEY = "sk-very-secret-9876543210"


def opinion(request: dict[str, Any], before: int) -> Answer:
    """Grades 7, agrees with the first answer, and now and then writes what cannot be read or repeats its key."""
    text = request["messages"][-1]["content"]
    if "one of 1, 2," in text:
        return says("Clear and short. [[7]]")
    if "ANSWER1]" in text:
        return says("Both will do, the first is better. [[answer1]]")
    return says("neither" if "sea" in text.split("ANSWER A]")[1][:40] else "A")


@pytest.fixture(scope="module")
def judged(tiny_config: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, Path, str]:
    """A run of one round with all benchmarks; its folder, its config, and all that the command said."""
    folder = tmp_path_factory.mktemp("judged")
    with Stub(opinion) as stub:
        judge = {
            "kind": "openai",
            "model": "m",
            "base_url": stub.url,
            "benchmarks": ["xalpaca", "mtbench", "accuracy", "nlp"],
            "limit": 2,
            "mtbench": {"questions": str(write_questions(folder / "questions")), "max_tokens": 6},
            "accuracy": {"pairs": 4},
            "nlp": {
                "tasks": ["quiz_{lang}"],
                "include_path": str(write_tasks(folder / "tasks")),
                "limit": 4,
                "backend": "transformers",
            },
        }
        config = tiny_config(folder, rounds=1, judge=judge, prompts={"languages": ["en", "es"]})
        done = icr("iterate", "--config", config, env={"OPENAI_API_KEY": KEY})
    return RunDir(folder / "run"), config, done.stdout + done.stderr


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run above is by processes; what follows it is about something else."""
    run_inline(monkeypatch)


@pytest.mark.timeout(600)
def test_every_benchmark_leaves_its_summary(judged: tuple[RunDir, Path, str]) -> None:
    run, _, _ = judged
    one = run.round(1).judge
    assert read_json(one / "summary.json")["judge"] == "openai: m"
    grades = read_json(one / "mtbench" / "summary.json")
    assert grades["average"]["average"] == 7.0 and grades["languages"]["es"]["n"] == 2
    agreement = read_json(one / "accuracy" / "summary.json")
    assert set(agreement["languages"]) == {"en", "es"} and agreement["languages"]["en"]["n"] == 4
    rows = read_json(one / "nlp" / "summary.json")["tasks"]
    assert {(r["task"], r["n"]) for r in rows} == {("quiz_en", 4), ("quiz_es", 4)}
    counts = run.round(1).record.stages["judge"].counts
    assert counts["mtbench"] == 7.0 and "reward_accuracy" in counts and "win_rate" in counts
    assert not (run.round(0).judge / "accuracy").exists()  # round 0 has no pairs


def test_the_report_shows_them(judged: tuple[RunDir, Path, str]) -> None:
    page = judged[0].report.read_text(encoding="utf-8")
    for text in ("MT-Bench", "Reward accuracy", "the alignment tax", "From round to round", "quiz"):
        assert text in page, text


def test_the_key_is_nowhere(judged: tuple[RunDir, Path, str]) -> None:
    run, _, said = judged
    assert KEY not in said
    files = [path for path in run.path.rglob("*") if path.is_file()]
    assert len(files) > 40 and not [path for path in files if KEY.encode() in path.read_bytes()]


@pytest.mark.usefixtures("inline")
def test_accuracy_by_another_judge_than_the_runs(
    judged: tuple[RunDir, Path, str], tiny_pair: tuple[Path, Path]
) -> None:
    run, config, _ = judged
    words = ["judge", "accuracy", "--run", run.path, "--round", 1, "--json"]
    done = icr(*words, "--judge", f"local:{tiny_pair[1]}", "--pairs", 2)
    summary = json.loads(done.stdout)
    assert summary["judge"].startswith("local:") and summary["languages"]["es"]["n"] == 2
    assert 0 < summary["average"]["accuracy"] < 100
    # the run's own verdicts are as they were
    assert read_json(run.round(1).judge / "accuracy" / "summary.json")["judge"] == "openai: m"
    assert load_config(config).judge.kind == "openai"


@pytest.mark.usefixtures("inline")
def test_nlp_tasks_alone(tmp_path: Path, tiny_pair: tuple[Path, Path]) -> None:
    tasks = write_tasks(tmp_path / "tasks")
    for name in ("eval", "prompts", "configs", "loops"):  # a user's folders are not taken for our packages
        (tmp_path / name).mkdir()
    words = ["judge", "nlp", tiny_pair[0], "--languages", "en,es", "--tasks", "quiz_{lang}", "--include-path", tasks]
    words += ["--out", tmp_path / "out", "--limit", 3, "--set", "judge.nlp.backend=transformers"]
    done = icr(*words, cwd=tmp_path)
    assert "quiz_es" in done.stdout and "acc" in done.stdout
