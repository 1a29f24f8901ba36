"""The alignment tax: differences and their errors, by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.folders import summary_path
from eval.nlp.result import ITEMS
from eval.nlp.run import items_path
from eval.nlp.table import nlp_table
from icr.base.errors import UserError
from icr.base.files import write_json, write_rows


def write_results(folder: Path, values: dict[str, list[float]], **changes: Any) -> Path:
    """A summary and items as `run_nlp` writes them: task of a language → each item's value."""
    rows = []
    for lang, numbers in values.items():
        task = f"quiz_{lang}"
        found = [{"item": n, "doc_hash": f"h{n}", "metric": "acc", "value": v} for n, v in enumerate(numbers)]
        write_rows(items_path(folder, task), found, ITEMS)
        error = float(np.std(numbers, ddof=1) / math.sqrt(len(numbers))) if len(numbers) > 1 else None
        row = {"task": task, "benchmark": "quiz", "language": lang, "metric": "acc", "value": float(np.mean(numbers)),
               "se": error, "n": len(numbers), "few_shot": 1, "version": 1.0}  # fmt: skip
        rows.append(row | changes)
    write_json(summary_path(folder, "nlp"), {"tasks": rows})
    return folder


def test_the_tax_has_the_paired_error(tmp_path: Path) -> None:
    folders = {
        "0": write_results(tmp_path / "0", {"en": [1, 1, 0, 1], "es": [1, 0, 1, 0]}),
        "1": write_results(tmp_path / "1", {"en": [1, 0, 0, 1], "es": [1, 1, 1, 0]}),
    }
    rows = nlp_table(folders)
    assert [(r["language"], r["label"]) for r in rows] == [
        (lang, label) for lang in ("en", "es", "average") for label in ("0", "1")
    ]
    assert [r["value"] for r in rows] == [0.75, 0.5, 0.5, 0.75, 0.625, 0.625]
    assert [r["change"] for r in rows] == [None, -0.25, None, 0.25, None, 0.0]
    # differences 0 -1 0 0: mean -1/4, sum of squares 1 - 4/16 = 3/4, over 3, over 4 items
    # en and es are the same items: on average they change by 0 0 0 0, -0.5 +0.5 0 0 would be over two of them
    together = np.std([0, (-1 + 1) / 2, 0, 0], ddof=1) / 2
    assert [r["change_se"] for r in rows] == [None, 0.25, None, 0.25, None, pytest.approx(together)]
    means = np.mean([[1, 1, 0, 1], [1, 0, 1, 0]], axis=0)
    assert rows[4]["se"] == pytest.approx(means.std(ddof=1) / 2)
    assert [r["paired"] for r in rows] == [None, True, None, True, None, True]
    assert rows[0]["se"] == pytest.approx(math.sqrt(0.75 * 0.25 / 3))


def test_items_that_cannot_be_matched_have_the_largest_error_that_they_can(tmp_path: Path) -> None:
    """With other numbers of items nobody knows which are translations of which: the mean of the errors, not √ of it."""
    folder = write_results(tmp_path / "0", {"en": [1, 1, 0, 1], "es": [1, 0, 1]})
    [en, es, average] = nlp_table({"0": folder})
    assert average["se"] == pytest.approx((en["se"] + es["se"]) / 2)


def test_other_items_have_independent_errors(tmp_path: Path) -> None:
    folders = {
        "before": write_results(tmp_path / "0", {"en": [1, 1, 0, 1]}),
        "after": write_results(tmp_path / "1", {"en": [1, 0, 0, 1, 0]}),
    }
    [_, row] = nlp_table(folders)
    assert (row["paired"], row["change"]) == (False, pytest.approx(0.4 - 0.75))
    assert row["change_se"] == pytest.approx(math.sqrt(0.75 * 0.25 / 3 + 0.4 * 0.6 / 4))


def test_a_metric_that_is_no_mean_of_its_items_is_not_paired(tmp_path: Path) -> None:
    folders = {label: write_results(tmp_path / label, {"en": [1, 0, 1, 1]}, value=7.5, se=0.3) for label in "01"}
    [_, row] = nlp_table(folders)
    assert (row["paired"], row["change"], row["change_se"]) == (False, 0.0, pytest.approx(math.hypot(0.3, 0.3)))


def test_what_cannot_be_compared_says_why(tmp_path: Path) -> None:
    base = write_results(tmp_path / "0", {"en": [1, 1, 0, 1]})
    otherwise = write_results(tmp_path / "1", {"en": [1, 1, 0, 1], "es": [1, 0]}, few_shot=5)
    rows = nlp_table({"0": base, "1": otherwise})
    assert [(r["language"], r["change"], r["why"]) for r in rows if r["label"] == "1"] == [
        ("en", None, "measured differently in 0: few_shot 1, here 5"),
        ("es", None, "not measured in 0"),
        ("average", None, "no change in en: measured differently in 0: few_shot 1, here 5"),
    ]
    one = {label: write_results(tmp_path / f"one-{label}", {"en": [1]}) for label in "01"}
    assert [r["why"] for r in nlp_table(one)] == [None, "a single item has no standard error"]
    with pytest.raises(UserError, match="no NLP results"):
        nlp_table({"0": tmp_path / "nothing"})
