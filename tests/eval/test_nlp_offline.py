"""lm-eval's own task files for Bengali, Swahili and Thai, run without a network: their data is in the hub's cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eval.nlp.average import read_items
from eval.nlp.families import builtin_tasks
from eval.nlp.run import items_path, run_nlp
from eval.nlp.tasks import Catalogue, plan_tasks
from icr.base.errors import UserError
from icr.config.schema import Nlp
from tests.helpers.hub_cache import write_cached
from tests.helpers.judging import Inline
from tests.helpers.tiny_models import make_tiny_model

pytestmark = pytest.mark.skipif(builtin_tasks() is None, reason="lm-eval is not installed")
LANGUAGES = {"bn": "ben_Beng", "sw": "swh_Latn", "th": "tha_Thai"}
ITEMS = 5
PROX = ("biology", "business", "chemistry", "computer science", "economics", "engineering", "health", "history", "law",
        "math", "other", "philosophy", "physics", "psychology")  # fmt: skip
GLOBAL = ("Business", "Humanities", "Medical", "Other", "STEM", "Social Sciences")
INCLUDE = ("Arts & Humanities", "STEM", "General knowledge", "Professional certification")


def belebele(lang: str, n: int) -> dict[str, Any]:
    answers = {f"mc_answer{k}": f"{lang} {(n + k) % 7}" for k in range(1, 5)}
    return {"flores_passage": f"The sea {n}.", "question": f"{lang}: how many {n}? ", **answers,
            "correct_answer_num": str(1 + n % 4)}  # fmt: skip


def mgsm(n: int, *, worked: bool) -> dict[str, Any]:
    question, answer = (f"Swali: {n} + {n}", "x" * 25 + str(n)) if worked else (f"{n} + {n}", None)
    return {"question": question, "answer": answer, "answer_number": 2 * n}


def choices(n: int) -> dict[str, Any]:
    return {"question": f"Which {n}?", **{f"option_{letter}": f"it is {letter}" for letter in "abcd"}}


def prox(subject: str, n: int) -> dict[str, Any]:
    options = {f"option_{k}": f"option {k}" if k < 9 else None for k in range(10)}
    return {"question": f"Which {n}?", **options, "answer": "B", "category": subject, "cot_content": f"A: {n} (B)."}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data sets of all benchmarks that have these languages, in the columns that are published."""
    root = tmp_path_factory.mktemp("datasets")
    for lang, code in LANGUAGES.items():
        write_cached(root, "facebook/belebele", code, {"test": [belebele(lang, n) for n in range(ITEMS)]})
        worked = [mgsm(n, worked=True) for n in range(1, 9)]
        tests = [mgsm(n, worked=False) for n in range(1, ITEMS + 1)]
        write_cached(root, "juletxara/mgsm", lang, {"train": worked, "test": tests})
        of = [prox(subject, n) for subject in PROX for n in range(5)]
        for name in ("li-lab/MMLU-ProX", "li-lab/MMLU-ProX-Lite"):
            write_cached(root, name, lang, {"validation": of, "test": of})
    for lang in ("bn", "sw"):
        rows = [{**choices(n), "answer": "B", "subject_category": of} for of in GLOBAL for n in range(2)]
        for org in ("CohereForAI", "CohereLabs"):  # lm-eval's files have the old name and the new one
            write_cached(root, f"{org}/Global-MMLU-Lite", lang, {"dev": rows, "test": rows})
    rows = [{**choices(n), "answer": n % 4, "domain": of} for of in INCLUDE for n in range(2)]
    write_cached(root, "CohereForAI/include-base-44", "Bengali", {"test": rows})
    return root


@pytest.fixture
def offline(cache: Path, monkeypatch: pytest.MonkeyPatch, own_data_cache: None) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(cache))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("family", "languages", "tasks"),
    [
        ("mmlu_prox", ["bn", "sw", "th"], 14),
        ("mmlu_prox_lite", ["bn", "sw", "th"], 14),
        ("include", ["bn"], 4),
        ("global_mmlu", ["bn", "sw"], 6),
        ("mgsm", ["bn", "sw", "th"], 1),
        ("mgsm_native_cot", ["bn", "sw", "th"], 1),
        ("belebele", ["bn", "sw", "th"], 1),
    ],
)
def test_every_task_of_a_benchmark_works_on_its_data(family: str, languages: list[str], tasks: int) -> None:
    """The first item's prompt, its few-shot examples and its choices are made by lm-eval's own files."""
    catalogue = Catalogue(None)
    plan = plan_tasks(Nlp(tasks=[family]), languages, catalogue)
    assert len(plan.tasks) == tasks * len(languages) and not plan.without
    for task in plan.tasks:
        assert len(catalogue.load(task).eval_docs) > 0


@pytest.mark.usefixtures("offline")
def test_two_benchmarks_in_each_low_resource_language_by_a_forward_pass_of_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lm_eval.models.huggingface.HFLM.max_gen_toks", 8)  # of MGSM; 256 take a minute
    model, machine = make_tiny_model(tmp_path / "model", context=1024), Inline()
    asked = Nlp(tasks=["belebele", "mgsm"], backend="transformers", few_shot={"belebele": 1}, batch_size=8)
    there: Any = machine
    summary = run_nlp(there, asked, str(model), list(LANGUAGES), tmp_path / "out")
    found = {(task["benchmark"], task["language"]): task for task in summary["tasks"]}
    assert found.keys() == {(name, lang) for name in ("belebele", "mgsm") for lang in LANGUAGES}
    assert {task["n"] for task in found.values()} == {ITEMS}
    values = []
    for lang, code in LANGUAGES.items():
        expected = right(model, lang)
        assert list(read_items(items_path(tmp_path / "out", f"belebele_{code}"), "acc").values()) == expected
        assert found["belebele", lang]["value"] == pytest.approx(np.mean(expected))
        assert (found["mgsm", lang]["metric"], found["mgsm", lang]["value"]) == ("exact_match,remove_whitespace", 0.0)
        values.append(np.mean(expected))
    assert summary["benchmarks"]["belebele"]["value"] == pytest.approx(np.mean(values))


def right(model: Path, lang: str) -> list[float]:
    """Per item of Belebele, after one example, the first item: does the letter of the largest log-prob win?"""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()

    def prompt(n: int) -> str:
        doc = belebele(lang, n)
        options = "\n".join(f"{letter}: {doc[f'mc_answer{k}']}" for k, letter in enumerate("ABCD", 1))
        return f"P: {doc['flores_passage']}\nQ: {doc['question'].strip()}\n{options}\nAnswer:"

    def example(n: int) -> str:
        return f"{prompt(n)} {'ABCD'[n % 4]}\n\n"

    hits = []
    for n in range(ITEMS):
        context = example(1 if n == 0 else 0) + prompt(n)  # never the item itself
        start, sums = len(tokenizer(context)["input_ids"]), []
        for letter in "ABCD":
            ids = torch.tensor([tokenizer(f"{context} {letter}")["input_ids"]])
            with torch.no_grad():
                logps = torch.log_softmax(lm(ids).logits[0, :-1], dim=-1)
            sums.append(float(logps.gather(1, ids[0, 1:, None])[start - 1 :].sum()))
        hits.append(float(int(np.argmax(sums)) == n % 4))
    return hits


@pytest.mark.usefixtures("own_data_cache")
def test_data_that_is_not_in_the_cache_is_named_with_the_way_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    catalogue = Catalogue(None)
    [task] = plan_tasks(Nlp(tasks=["belebele"]), ["sw"], catalogue).tasks
    with pytest.raises(UserError, match="the task's data cannot be loaded") as caught:
        catalogue.load(task)
    assert caught.value.where == "task belebele_swh_Latn" and "HF_HOME" in caught.value.do
