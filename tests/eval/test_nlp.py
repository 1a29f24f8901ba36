"""NLP benchmarks: lm-eval on tasks of our own, against a forward pass of our own."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import eval.nlp.measuring
from eval.folders import summary_path
from eval.nlp.average import read_items
from eval.nlp.run import items_path, model_fingerprint, read_summary, run_nlp
from eval.nlp.table import nlp_table
from icr.base.files import read_rows
from icr.config.schema import Nlp
from icr.work.local_pool import Lane, LocalPool
from icr.work.machine import Machine
from tests.helpers.judging import Inline, Steps
from tests.helpers.quiz import ITEMS_EACH, right, settings, write_tasks
from tests.helpers.tiny_models import make_tiny_model

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("own_data_cache")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("models")
    return [make_tiny_model(root / f"model-{seed}", context=1024, seed=seed) for seed in (0, 3)]


def run_here(asked: Nlp, model: Path, languages: list[str], out: Path, watcher: Steps | None = None) -> dict[str, Any]:
    """With workers in this process."""
    machine: Any = Inline(None, watcher)
    return run_nlp(machine, asked, str(model), languages, out)


def test_a_value_is_the_ranking_by_log_likelihood(models: list[Path], tasks: Path, tmp_path: Path) -> None:
    reporter = Steps()
    summary = run_here(settings(tasks), models[0], ["en", "es"], tmp_path, reporter)
    for row, lang in zip(summary["tasks"], ("en", "es"), strict=True):
        expected = right(models[0], tasks, lang)
        assert 0 < sum(expected) < len(expected)  # else a constant would pass
        assert list(read_items(items_path(tmp_path, f"quiz_{lang}"), "acc").values()) == expected
        p, n = sum(expected) / len(expected), len(expected)
        assert row["value"] == pytest.approx(p)
        assert row["se"] == pytest.approx(math.sqrt(p * (1 - p) / (n - 1)))
        facts = {"task": f"quiz_{lang}", "language": lang, "metric": "acc", "n": ITEMS_EACH, "few_shot": 1}
        assert facts.items() <= row.items()
        assert (row["backend"], row["dtype"], row["too_long"]) == ("transformers", "float32", 0)
        assert set(row["metrics"]) == {"acc", "acc_norm"}
    average = summary["benchmarks"]["quiz_{lang}"]
    assert average["value"] == pytest.approx(np.mean([row["value"] for row in summary["tasks"]]))
    # an item and its translation are one draw
    means = np.mean([right(models[0], tasks, lang) for lang in ("en", "es")], axis=0)
    assert average["se"] == pytest.approx(means.std(ddof=1) / math.sqrt(ITEMS_EACH))
    assert average["languages"] == ["en", "es"]
    assert reporter.steps[-1] == (2 * ITEMS_EACH, 2 * ITEMS_EACH) and reporter.steps == sorted(reporter.steps)
    assert any(0 < done < total for done, total in reporter.within)  # within a task, too
    assert reporter.notes == []


def test_values_are_those_of_simple_evaluate(
    models: list[Path], tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda storage: None)  # four seconds of pip list and lscpu
    arguments = {"pretrained": str(models[1]), "dtype": "float32"}
    manager = TaskManager(include_defaults=False, include_path=tasks)
    theirs = lm_eval.simple_evaluate(
        "hf", arguments, tasks=["quiz_es"], num_fewshot=2, limit=9, batch_size=3, device="cpu", task_manager=manager
    )
    asked = settings(tasks, few_shot={"quiz_{lang}": 2}, limit=9)
    [ours] = run_here(asked, models[1], ["es"], tmp_path)["tasks"]
    assert (ours["few_shot"], ours["n"], ours["of"]) == (2, 9, ITEMS_EACH)
    for metric in ("acc", "acc_norm"):
        found = ours["metrics"][metric]
        assert found["value"] == theirs["results"]["quiz_es"][f"{metric},none"]
        assert found["se"] == theirs["results"]["quiz_es"][f"{metric}_stderr,none"]


class Spy:
    """Counts the tasks that are measured, and ends like a kill after `allowed` of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.measured, self.allowed = list[str](), 99
        real = eval.nlp.measuring._evaluate

        def evaluate(scorer: Any, task: Any, *rest: Any) -> Any:
            if len(self.measured) == self.allowed:
                raise KeyboardInterrupt
            self.measured.append(task.name)
            return real(scorer, task, *rest)

        monkeypatch.setattr(eval.nlp.measuring, "_evaluate", evaluate)


def test_what_is_measured_stays_and_is_not_measured_again(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks, out, spy = write_tasks(tmp_path / "tasks"), tmp_path / "out", Spy(monkeypatch)

    def run(model: Path, **values: Any) -> dict[str, Any]:
        spy.measured = []
        return run_here(settings(tasks, **values), model, ["en", "es"], out)

    spy.allowed = 1
    with pytest.raises(KeyboardInterrupt):
        run(models[0])
    assert spy.measured == ["quiz_en"] and read_summary(out) is None
    spy.allowed = 99
    first = run(models[0])
    assert spy.measured == ["quiz_es"] and read_summary(out) == first
    with monkeypatch.context() as nothing:
        nothing.setattr(eval.nlp.measuring, "Catalogue", None)  # not even the list of tasks is read
        assert run(models[0], batch_size=3) == first and spy.measured == []
    summary_path(out, "nlp").unlink()
    assert run(models[0]) == first and spy.measured == []
    assert run(models[0], limit=5) != first and spy.measured == ["quiz_en", "quiz_es"]
    assert run(models[1]) != first and spy.measured == ["quiz_en", "quiz_es"]
    (tasks / "test_es.jsonl").write_text((tasks / "test_en.jsonl").read_text(encoding="utf-8"), encoding="utf-8")
    run(models[1])
    assert spy.measured == ["quiz_en", "quiz_es"]


def test_a_model_is_known_by_its_content(models: list[Path], tmp_path: Path) -> None:
    again = make_tiny_model(tmp_path / "again", context=1024, seed=0)
    assert model_fingerprint(str(again)) == model_fingerprint(str(models[0])) != model_fingerprint(str(models[1]))
    assert model_fingerprint("org/name") == "org/name"


def test_two_workers_share_the_tasks(models: list[Path], tasks: Path, tmp_path: Path) -> None:
    alone = run_here(settings(tasks), models[0], ["en", "es"], tmp_path / "alone")
    machine = Machine(tmp_path / "shared", Console(quiet=True))
    lane = {"nlp": Lane(2)}
    with LocalPool(tmp_path / "shared", lane, env={"PYTHONPATH": str(ROOT)}) as pool:
        machine.__dict__["pool"] = pool  # as if there were two GPUs
        shared = run_nlp(machine, settings(tasks), str(models[0]), ["en", "es"], tmp_path / "shared")
    values = [[(t["task"], t["value"], t["se"]) for t in s["tasks"]] for s in (alone, shared)]
    assert values[0] == values[1]
    assert len(list((tmp_path / "shared" / "logs").glob("nlp-*.log"))) == 2


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_in_a_process_of_its_own_with_vllm(models: list[Path], tasks: Path, tmp_path: Path) -> None:
    here = run_here(settings(tasks), models[0], ["en", "es"], tmp_path / "here")
    out = tmp_path / "there"
    run_nlp(Machine(out, Console(quiet=True)), settings(tasks, backend="vllm"), str(models[0]), ["en", "es"], out)
    there = read_summary(out)
    assert there["backend"] == ["vllm"]
    for task in ("quiz_en", "quiz_es"):
        assert read_items(items_path(out, task), "acc") == read_items(items_path(tmp_path / "here", task), "acc")
    assert [t["value"] for t in there["tasks"]] == [t["value"] for t in here["tasks"]]


def test_texts_that_are_too_long_are_counted(tasks: Path, tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "short", context=40)
    reporter = Steps()
    asked = settings(tasks, few_shot={"quiz_{lang}": 2})
    [row] = run_here(asked, model, ["en"], tmp_path / "out", reporter)["tasks"]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    read = [
        [json.loads(line) for line in (tasks / f"{split}_en.jsonl").read_text(encoding="utf-8").splitlines()]
        for split in ("train", "test")
    ]
    shown = "".join(f"{d['question']}\nAnswer: {d['options'][d['answer']]}\n\n" for d in read[0])
    texts = [f"{shown}{doc['question']}\nAnswer: {option}" for doc in read[1] for option in doc["options"]]
    # the last token is only predicted, so a text may be one token longer than the context
    assert row["too_long"] == sum(len(tokenizer(text)["input_ids"]) > 41 for text in texts) > 0
    assert reporter.notes == [
        f"quiz_en: {row['too_long']} texts are too long for the model; their beginnings were cut off"
    ]


def test_the_table_of_two_real_models(models: list[Path], tasks: Path, tmp_path: Path) -> None:
    folders = {str(n): tmp_path / str(n) for n in range(2)}
    for model, out in zip(models, folders.values(), strict=True):
        run_here(settings(tasks), model, ["en", "es"], out)
    changes = []
    for row in nlp_table(folders):
        if row["label"] == "1" and row["language"] != "average":
            d = np.subtract(*(right(models[n], tasks, row["language"]) for n in (1, 0)))
            assert row["change"] == pytest.approx(d.mean()) and d.any()
            assert row["change_se"] == pytest.approx(d.std(ddof=1) / math.sqrt(len(d)))
            changes.append(d.mean())
    assert nlp_table(folders)[-1]["change"] == pytest.approx(np.mean(changes))


def test_items_are_kept_as_numbers(models: list[Path], tasks: Path, tmp_path: Path) -> None:
    run_here(settings(tasks), models[0], ["en"], tmp_path)
    rows = read_rows(items_path(tmp_path, "quiz_en"))
    assert len(rows) == 2 * ITEMS_EACH and {r["metric"] for r in rows} == {"acc", "acc_norm"}
    assert [r["item"] for r in rows[::2]] == list(range(ITEMS_EACH))
    assert len({r["doc_hash"] for r in rows}) == ITEMS_EACH
