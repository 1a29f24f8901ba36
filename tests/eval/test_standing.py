"""An evaluation's folder: what may change when it is resumed, what is noticed, and folders of earlier versions."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from eval import benchmarks
from eval.benchmarks import Evaluation
from eval.evaluate import evaluate, evaluation_config
from icr.base.errors import UserError
from icr.config.evaluation import EvaluationConfig
from icr.work.machine import Machine
from tests.commands.test_judge_cli import write_public
from tests.helpers.judging import Inline

JUDGE = """
class Longer:
    def preferences(self, rows):
        return [float(len(row["first"]) > len(row["second"])) for row in rows]
"""
Evaluate = Callable[..., dict[str, Any]]


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    return write_public(tmp_path / "ours", "us", "de", {1: "kurz", 2: "viel länger als das andere", 3: "lang genug"})


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    return write_public(tmp_path / "theirs", "them", "de", dict.fromkeys((1, 2, 3), "mittel"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what workers were asked to do; they are in this process."""
    tasks: list[str] = []

    def work(self: Machine, *args: Any, **options: Any) -> Any:
        inline = Inline()
        inline.pool.tasks = tasks
        return inline.fill(*args, **options)

    monkeypatch.setattr(Machine, "fill", work)
    return tasks


@pytest.fixture
def judge(tmp_path: Path, ours: Path, theirs: Path, asked: list[str]) -> Evaluate:
    """`icr judge xalpaca` on `ours`; `overrides` as in --set. The console's text is kept under "said"."""
    (tmp_path / "my_judge.py").write_text(JUDGE)

    def evaluated(*overrides: str, out: Path = tmp_path / "out", model: Path = ours) -> dict[str, Any]:
        said = io.StringIO()
        found = evaluate(config_of(tmp_path, model, theirs, *overrides), out, Console(file=said, width=400))
        return {**found, "said": said.getvalue()}

    return evaluated


def config_of(tmp_path: Path, ours: Path, theirs: Path, *overrides: str) -> EvaluationConfig:
    data = {"languages": ["de"], "judge": {"baseline": str(theirs)}}
    name = f"{tmp_path / 'my_judge.py'}:Longer"
    return evaluation_config("xalpaca", str(ours), name, data, overrides)


def change(folder: Path, text: str = "eine ganz andere, viel längere Antwort") -> None:
    rows = json.loads((folder / "de.json").read_text(encoding="utf-8"))
    rows[0]["output"] = text
    (folder / "de.json").write_text(json.dumps(rows), encoding="utf-8")


def test_the_settings_are_those_of_an_evaluation_and_a_finished_one_asks_nothing(
    judge: Evaluate, asked: list[str], tmp_path: Path, ours: Path
) -> None:
    first = judge()
    assert first["languages"]["de"]["win_rate"] == pytest.approx(200 / 3) and asked == ["ask"]
    kept = yaml.safe_load((tmp_path / "out" / "evaluation.yaml").read_text(encoding="utf-8"))
    assert (kept["benchmark"], kept["model"], kept["languages"]) == ("xalpaca", str(ours), ["de"])
    assert kept.keys() == {
        "benchmark",
        "model",
        "languages",
        "chat_template",
        "template_arguments",
        "sampling",
        "judge",
    }
    record = json.loads((tmp_path / "out" / "steps.json").read_text())["xalpaca"]
    assert record["state"] == "done" and record["inputs"].keys() == {"answers", "judge class", "baseline answers"}
    assert judge() == first and asked == ["ask"]


def test_what_changes_no_result_may_change_and_anything_else_is_refused_with_both_values(judge: Evaluate) -> None:
    first = judge()
    assert judge("judge.budget=5", "judge.concurrency=2", "judge.timeout=7", "sampling.gpu_memory=0.5") == first
    with pytest.raises(UserError) as caught:
        judge("judge.orders=seeded")
    assert "    judge.orders: both → seeded" in str(caught.value) and "another --out folder" in caught.value.do


@pytest.mark.parametrize(("name", "what"), [("ours", "answers"), ("theirs", "baseline answers")])
def test_files_that_changed_after_the_end_are_named(judge: Evaluate, tmp_path: Path, name: str, what: str) -> None:
    judge()
    change(tmp_path / name)
    with pytest.raises(UserError, match=f"the {what} changed since xalpaca was started"):
        judge()
    assert judge(out=tmp_path / "other")["languages"]["de"]["n"] == 3


def test_a_changed_judge_is_named(judge: Evaluate, tmp_path: Path) -> None:
    judge()
    moved = shutil.copytree(tmp_path / "ours", tmp_path / "moved")
    judge(model=moved)  # the same answers, elsewhere
    (tmp_path / "my_judge.py").write_text(JUDGE.replace(">", ">="))
    with pytest.raises(UserError, match="the judge class changed"):
        judge()


def test_changed_answers_of_an_unfinished_evaluation_are_judged_from_the_start(
    judge: Evaluate, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setitem(benchmarks.BENCHMARKS, "xalpaca", stop_after_verdicts)
        with pytest.raises(KeyboardInterrupt):
            judge()
    assert asked == ["ask"] and (tmp_path / "out" / "verdicts" / "de.parquet").exists()
    with pytest.raises(UserError, match=r"judge\.orders: both → seeded"):  # settings are not changed half-way
        judge("judge.orders=seeded")
    change(tmp_path / "ours")
    found = judge()
    assert "xalpaca starts over: the answers changed since xalpaca was started" in found["said"]
    assert found["languages"]["de"]["win_rate"] == 100.0 and asked == ["ask", "ask"]


def stop_after_verdicts(evaluation: Evaluation) -> dict[str, Any]:
    from eval.xalpaca.answers import load_baseline, read_answers
    from eval.xalpaca.pairwise import run_verdicts

    answers = evaluation.out / "answers"
    assert evaluation.baseline is not None
    baseline = load_baseline(evaluation.baseline, read_answers(answers))
    run_verdicts(evaluation.judging("xalpaca"), answers, baseline, evaluation.out)
    raise KeyboardInterrupt


def write_old(tmp_path: Path, ours: Path, theirs: Path, out: Path, *, finished: bool) -> None:
    """A folder as it was before evaluations had settings of their own: a run's config, no record."""
    config = config_of(tmp_path, ours, theirs).model_dump(mode="json")
    old = {"run": None, "rounds": 2, "models": {"policy": None, "reference": str(ours), "chat_template": None},
           "prompts": {"path": "", "languages": ["de"], "limit": None}, "sampling": config["sampling"],
           "judge": config["judge"]}  # fmt: skip
    out.mkdir(exist_ok=True)
    (out / "evaluation.yaml").write_text(yaml.safe_dump(old), encoding="utf-8")
    if finished:
        row = {"n": 3, "win_rate": 12.5}
        (out / "summary.json").write_text(json.dumps({"languages": {"de": row}}), encoding="utf-8")


def test_a_finished_folder_of_an_earlier_version_is_taken_over(
    judge: Evaluate, asked: list[str], tmp_path: Path, ours: Path, theirs: Path
) -> None:
    write_old(tmp_path, ours, theirs, tmp_path / "out", finished=True)
    with pytest.raises(UserError, match=r"(?s)with other settings.*judge\.orders: both → seeded"):
        judge("judge.orders=seeded")
    with pytest.raises(UserError, match=r"model: \S+/ours → \S+/theirs"):
        judge(model=theirs)
    assert judge("judge.budget=3")["languages"]["de"]["win_rate"] == 12.5 and asked == []
    change(ours)
    with pytest.raises(UserError, match="the answers changed"):
        judge()


def test_an_unfinished_folder_of_an_earlier_version_goes_on_and_a_strange_one_is_refused(
    judge: Evaluate, tmp_path: Path, ours: Path, theirs: Path
) -> None:
    write_old(tmp_path, ours, theirs, tmp_path / "out", finished=False)
    assert judge()["languages"]["de"]["n"] == 3
    out = tmp_path / "strange"
    out.mkdir()
    (out / "evaluation.yaml").write_text("judge: {benchmarks: [xalpaca], unknown: 1}\n", encoding="utf-8")
    with pytest.raises(UserError, match="another version of icr, which cannot be continued"):
        judge(out=out)
