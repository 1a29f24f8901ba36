"""Which lm-eval tasks a config means, and what is said of those that cannot be run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import eval.nlp.measuring
from eval.nlp.run import run_nlp
from eval.nlp.tasks import Catalogue, check_settings, plan_tasks
from icr.base.errors import UserError
from icr.config.schema import Nlp
from tests.helpers.judging import Inline, Steps
from tests.helpers.quiz import settings, write_tasks
from tests.helpers.tiny_models import make_tiny_model

pytestmark = pytest.mark.usefixtures("own_data_cache")


def inline(watcher: Steps | None = None) -> Any:
    """A machine whose workers are in this process."""
    return Inline(None, watcher)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "model", context=1024)


@pytest.fixture(scope="module")
def catalogue(tasks: Path) -> Catalogue:
    return Catalogue(str(tasks))


def test_the_papers_tasks(catalogue: Catalogue) -> None:
    plan = plan_tasks(Nlp(), ["en", "es", "zh", "sw"], catalogue)
    found = {(t.benchmark, t.language): (t.name, t.few_shot) for t in plan.tasks}
    assert found["arc", "en"] == ("arc_challenge", 0) and found["arc", "es"] == ("arc_es", 0)
    assert found["hellaswag", "en"] == ("hellaswag", 0) and found["hellaswag", "es"] == ("hellaswag_es", 0)
    assert found["mmlu", "en"] == ("m_mmlu_en", 5) and found["mmlu", "zh"] == ("m_mmlu_zh", 5)
    assert found["truthfulqa_mc1", "es"] == ("truthfulqa_es_mc1", 0)
    assert found["truthfulqa_mc2", "en"] == ("truthfulqa_mc2", 0)
    assert len(found) == 5 + 5 + 4
    every = ["arc", "hellaswag", "mmlu", "truthfulqa_mc1", "truthfulqa_mc2"]
    assert plan.without == {"zh": ["hellaswag"], "sw": every}


def test_own_tasks_beside_the_papers(catalogue: Catalogue) -> None:
    asked = Nlp(tasks=["m_mmlu_{lang}", "arc_challenge", "quiz_{lang}", "quiz_es"], few_shot={"arc": 25})
    plan = plan_tasks(asked, ["es", "sw"], catalogue)
    assert [(t.name, t.benchmark, t.language, t.few_shot) for t in plan.tasks] == [
        ("m_mmlu_es", "mmlu", "es", 5),
        ("arc_challenge", "arc", "en", 25),
        ("quiz_es", "quiz_{lang}", "es", None),
    ]
    assert plan.without == {"sw": ["mmlu", "quiz_{lang}"]}


@pytest.mark.parametrize(
    ("asked", "languages", "message"),
    [
        ({"tasks": ["hellaswagg_es"]}, ["es"], r"(?s)task not found.*hellaswagg_es.*did you mean hellaswag_es"),
        ({"tasks": ["quizz_{lang}"]}, ["es"], r"(?s)task not found.*quizz_es.*did you mean .*quiz_es"),
        ({"tasks": ["ai2_arc"]}, ["en"], "the name of a group"),
        ({}, ["sw", "th"], "no task found for the languages sw, th"),
        (
            {"few_shot": {"acr": 25}},
            ["es"],
            r"(?s)few-shot examples are set for acr.*the benchmarks are arc, hellaswag",
        ),
    ],
)
def test_tasks_that_are_not_there(
    asked: dict[str, Any], languages: list[str], message: str, catalogue: Catalogue
) -> None:
    with pytest.raises(UserError, match=message):
        plan_tasks(Nlp.model_validate(asked), languages, catalogue)


def test_a_language_without_tasks_is_named(
    model: Path, tasks: Path, tmp_path: Path, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        eval.nlp.measuring, "Catalogue", lambda include_path: catalogue
    )  # to read all 14,000 again takes long
    reporter = Steps()
    summary = run_nlp(inline(reporter), settings(tasks), str(model), ["sw", "en"], tmp_path)
    assert summary["without"] == {"sw": ["quiz_{lang}"]}
    assert [t["language"] for t in summary["tasks"]] == ["en"]
    assert reporter.notes == ["quiz_{lang}: no task for sw, not measured"]


def test_folders_of_tasks_that_are_wrong(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="folder of tasks not found"):
        check_settings(Nlp(include_path=str(tmp_path / "nothing")))
    with pytest.raises(UserError, match=r"no \.yaml file"):
        check_settings(Nlp(include_path=str(tmp_path)))
    (tmp_path / "broken.yaml").write_text("task: quiz\ndoc_to_text: [a, b\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"(?s)not valid YAML.*broken\.yaml:3"):
        check_settings(Nlp(include_path=str(tmp_path)))
    with pytest.raises(UserError, match="not valid YAML"):
        run_nlp(inline(), Nlp(include_path=str(tmp_path)), "org/name", ["en"], tmp_path / "out")


def test_data_that_cannot_be_had(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)data cannot be loaded.*alexandrainst/m_arc.*task arc_es.*HF_HOME"):
        run_nlp(inline(), Nlp(backend="transformers"), str(model), ["es"], tmp_path / "hub")
    tasks = write_tasks(tmp_path / "tasks")
    (tasks / "test_en.jsonl").unlink()
    with pytest.raises(UserError, match=r"(?s)data cannot be loaded.*test_en\.jsonl.*working directory"):
        run_nlp(inline(), settings(tasks), str(model), ["en"], tmp_path / "own")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{{options}}", "{{no_such_key}}", "fails on its own data"),
        ("doc_to_target: answer", "doc_to_target: !function nowhere.target", "(?s)needs a Python package.*nowhere"),
        ("test_split: test", "test_split: dev", "fails on its own data"),
    ],
)
def test_a_task_file_that_does_not_work(old: str, new: str, message: str, tmp_path: Path) -> None:
    tasks = write_tasks(tmp_path / "tasks")
    file = tasks / "quiz_en.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        run_nlp(inline(), settings(tasks), "org/never-loaded", ["en"], tmp_path / "out")


def test_a_model_that_cannot_be_loaded(tasks: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="model cannot be loaded"):
        run_nlp(inline(), settings(tasks), str(tmp_path), ["en"], tmp_path / "out")
