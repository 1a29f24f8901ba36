"""AlpacaEval's own files: a row an item, from which its tools compute the rates that the summary has."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from eval.xalpaca.alpaca_files import write_alpaca_files
from eval.xalpaca.pairwise import ORDERS, VERDICTS
from eval.xalpaca.summary import summarise
from icr.base.files import write_rows
from tests.helpers.judging import write_answers


def fitted_rate(y: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> float:
    """AlpacaEval's rate at equal length, in percent, by a fit of the test's own."""
    t = np.tanh((theirs - ours) / np.std(theirs - ours, ddof=1))

    def loss(w: np.ndarray) -> float:
        z = w[0] * t + w[1]
        return float(np.mean(np.logaddexp(0, z) - y * z))

    return float(100 / (1 + np.exp(-minimize(loss, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-8}).x[1])))


def test_annotations_are_one_row_an_item_and_give_the_summarys_rates(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids = [*map(str, range(60)), "01"]
    answers = write_answers(tmp_path / "answers", "de", {id: "x" * int(rng.integers(5, 90)) for id in ids})
    baseline = {"de": {id: "y" * int(rng.integers(5, 90)) for id in ids}}
    rows = [
        {"prompt_id": id, "order": order, "preference": None if (id, order) == ("7", ORDERS[0]) else rng.random(),
         "reason": None, "raw": f"{id} {order}", "shortened": False}
        for id in ids for order in ORDERS
    ]  # fmt: skip
    write_rows(tmp_path / "verdicts" / "de.parquet", rows, VERDICTS)
    summary = summarise(answers, baseline, tmp_path, "j", "b")["languages"]["de"]
    write_alpaca_files(tmp_path, baseline, "ours", "theirs", "j")
    found = json.loads((tmp_path / "alpaca_eval/de/annotations.json").read_text())
    assert [row["id"] for row in found] == [*range(60), "01"], "0 is an id, and 01 is not 1"
    assert [row["icr_orders"][1]["raw_completion"] for row in found[:2]] == [f"{n} {ORDERS[1]}" for n in (0, 1)]
    scored = [row for row in found if row["preference"] is not None]
    assert [row["id"] for row in found if row["preference"] is None] == [7], "judged in one order only"
    y = np.array([row["preference"] - 1 for row in scored])
    assert 100 * y.mean() == pytest.approx(summary["win_rate"])
    lengths = [np.array([float(len(row[key])) for row in scored]) for key in ("output_2", "output_1")]
    assert fitted_rate(y, *lengths) == pytest.approx(summary["lc_win_rate"], abs=1e-4)
