"""Multilingual benchmarks by one name: which of lm-eval's tasks they are, and one value over their subjects."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.nlp.families import FAMILIES, builtin_tasks, check_families, find_members
from eval.nlp.pooling import pool
from eval.nlp.result import Item, TaskRecord
from eval.nlp.run import run_nlp
from eval.nlp.tasks import Catalogue, plan_tasks
from icr.base.errors import UserError
from icr.config.schema import Nlp
from tests.helpers.judging import Inline
from tests.helpers.quiz import settings
from tests.helpers.tiny_models import make_tiny_model

pytestmark = pytest.mark.skipif(builtin_tasks() is None, reason="lm-eval is not installed")
LOW_RESOURCE = ("bn", "sw", "th")
"""The paper's (docs/low-resource.md)."""


def test_each_low_resource_language_has_at_least_two_benchmarks() -> None:
    there = {lang: [name for name in FAMILIES if find_members(name, lang)] for lang in LOW_RESOURCE}
    assert there == {
        "bn": ["mmlu_prox", "mmlu_prox_lite", "include", "global_mmlu", "mgsm", "mgsm_native_cot", "belebele"],
        "sw": ["mmlu_prox", "mmlu_prox_lite", "global_mmlu", "mgsm", "mgsm_native_cot", "belebele"],
        "th": ["mmlu_prox", "mmlu_prox_lite", "mgsm", "mgsm_native_cot", "belebele"],
    }


def test_the_names_of_languages_are_those_of_lm_evals_files() -> None:
    """Of every file that a family has for an ISO 639-1 language, except standards that share one code."""
    import langcodes

    codes = [a + b for a in map(chr, range(97, 123)) for b in map(chr, range(97, 123)) if langcodes.tag_is_valid(a + b)]
    found = {name: {Path(family.file(code)).stem.lstrip("_") for code in codes} for name, family in FAMILIES.items()}
    folder = builtin_tasks()
    assert folder is not None
    include = {file.stem.lstrip("_") for file in (folder / "include/default").glob("*/_include*.yaml")}
    assert include <= found["include"] and len(include) == 44
    prox = {file.stem.lstrip("_") for file in (folder / "mmlu_prox").glob("*/_mmlu_prox_??.yaml")}
    assert prox <= found["mmlu_prox"] and len(prox) > 25
    belebele = {file.stem for file in (folder / "belebele").glob("belebele_*.yaml")}
    without = {name.removeprefix("belebele_") for name in belebele - found["belebele"]}
    dialects = {"acm_Arab", "apc_Arab", "ars_Arab", "ary_Arab", "arz_Arab"}
    only_three_letters = {"ceb_Latn", "ckb_Arab", "fuv_Latn", "ilo_Latn", "kac_Latn", "kea_Latn", "luo_Latn",
                          "nso_Latn", "shn_Mymr", "war_Latn"}  # fmt: skip
    other_scripts = {"arb_Latn", "ben_Latn", "hin_Latn", "npi_Latn", "sin_Latn", "urd_Latn", "zho_Hant"}
    assert without == dialects | only_three_letters | other_scripts


def test_a_plan_is_the_single_tasks_with_the_few_shot_examples_of_their_files() -> None:
    asked = Nlp(tasks=["global_mmlu", "belebele", "mgsm"], few_shot={"belebele": 3})
    plan = plan_tasks(asked, ["sw", "th"], Catalogue(None))
    of = [(t.name, t.benchmark, t.language, t.few_shot, t.group) for t in plan.tasks]
    assert of[0] == ("global_mmlu_sw_business", "global_mmlu", "sw", None, "global_mmlu_sw")
    assert of[-4:] == [
        ("belebele_swh_Latn", "belebele", "sw", 3, None),
        ("belebele_tha_Thai", "belebele", "th", 3, None),
        ("mgsm_direct_sw", "mgsm", "sw", None, None),
        ("mgsm_direct_th", "mgsm", "th", None, None),
    ]
    assert len(of) == 6 + 4 and plan.without == {"th": ["global_mmlu"]}
    catalogue = Catalogue(None)
    for task in plan.tasks:
        catalogue.require(task.name)  # lm-eval itself knows it as a single task


def test_a_benchmark_without_any_of_the_languages_is_refused_before_a_model_is_loaded() -> None:
    check_families(Nlp(tasks=["include"]), ["sw", "bn"])
    with pytest.raises(UserError, match=r"(?s)include has none of the languages sw, th.*belebele \(sw, th\)"):
        check_families(Nlp(tasks=["include"]), ["sw", "th"])


def record(task: str, values: list[float], *, se: float = 0.1) -> tuple[TaskRecord, list[Item]]:
    value = sum(values) / len(values)
    found: TaskRecord = {
        "task": task, "metric": "acc", "value": value, "se": se, "n": len(values), "of": len(values) + 5,
        "few_shot": 0, "version": 0.0, "higher_is_better": True,
        "metrics": {"acc": {"value": value, "se": se}, "f1": {"value": value / 2, "se": 0.2}},
        "benchmark": "b", "language": "sw", "too_long": 1, "seconds": 1.5, "backend": "x", "dtype": "y",
    }  # fmt: skip
    items: list[Item] = [
        {"item": n, "doc_hash": f"{task}{n}", "metric": "acc", "value": v} for n, v in enumerate(values)
    ]
    return found, items


def test_subjects_become_one_record_over_their_items_by_hand() -> None:
    one, two = record("a", [1.0, 0.0, 1.0, 1.0]), record("b", [0.0, 0.0])
    whole, items = pool("both", [one[0], two[0]], [one[1], two[1]])
    assert (whole["task"], whole["n"], whole["of"], whole["too_long"], whole["seconds"]) == ("both", 6, 16, 2, 3.0)
    assert whole["value"] == pytest.approx(0.5)
    assert whole["se"] == pytest.approx(np.std([1, 0, 1, 1, 0, 0], ddof=1) / math.sqrt(6))
    assert [item["item"] for item in items] == [0, 1, 2, 3, 9, 10]
    # no items of f1: two independent subjects
    assert whole["metrics"]["f1"]["value"] == pytest.approx((4 * 0.375 + 2 * 0.0) / 6)
    assert whole["metrics"]["f1"]["se"] == pytest.approx(math.hypot(4 * 0.2, 2 * 0.2) / 6)


@pytest.mark.usefixtures("own_data_cache")
def test_tasks_are_asked_through_the_chat_template_where_that_is_wanted(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The few-shot example is a turn of its own, and both kinds of results are kept apart."""
    import lm_eval.models.huggingface as huggingface

    model = make_tiny_model(tmp_path / "model", context=1024)
    seen: list[list[dict[str, str]]] = []
    real = huggingface.HFLM.apply_chat_template

    def watch(self: Any, history: list[dict[str, str]], *args: Any, **kwargs: Any) -> str:
        seen.append(history)
        return str(real(self, history, *args, **kwargs))

    monkeypatch.setattr(huggingface.HFLM, "apply_chat_template", watch)
    machine: Any = Inline()
    plain = run_nlp(machine, settings(tasks, limit=2), str(model), ["en"], tmp_path / "out")
    assert not seen
    chat = run_nlp(machine, settings(tasks, limit=2, chat_template=True), str(model), ["en"], tmp_path / "out")
    assert [turn["role"] for turn in seen[0]] == ["user", "assistant", "user"]
    assert plain["fingerprint"] != chat["fingerprint"]
