"""Differences between two evaluations: by hand, and what cannot be compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.difference import compare
from eval.xalpaca.pairwise import VERDICTS
from icr.base.errors import UserError
from icr.base.files import write_json, write_rows


def evaluation(folder: Path, preferences: dict[str, dict[str, float | None]], judge: str = "j") -> Path:
    for lang, items in preferences.items():
        rows = [{"prompt_id": id, "order": order, "preference": value, "reason": None, "raw": "", "shortened": False}
                for id, value in items.items() for order in ("policy-first", "baseline-first")]  # fmt: skip
        write_rows(folder / "verdicts" / f"{lang}.parquet", rows, VERDICTS)
    write_json(folder / "summary.json", {"judge": judge, "baseline": "b"})
    return folder


def test_paired_differences_by_hand(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    before = {str(n): float(v) for n, v in enumerate(rng.uniform(0.2, 0.6, 200))}
    after = {n: min(1.0, v + 0.1 + 0.05 * float(rng.standard_normal())) for n, v in before.items()}
    one = evaluation(tmp_path / "one", {"de": before, "es": {"a": 0.5, "b": 0.1, "c": None}})
    two = evaluation(tmp_path / "two", {"de": after, "es": {"a": 0.7, "b": 0.5, "d": 0.9}})
    result = compare(one, two, "xalpaca")
    de, es = result["languages"]["de"], result["languages"]["es"]
    differences = 100 * np.array([after[n] - before[n] for n in before])
    assert (de["n"], de["difference"]) == (200, pytest.approx(differences.mean()))
    error = differences.std(ddof=1) / np.sqrt(200)
    assert de["low"] == pytest.approx(differences.mean() - 1.96 * error, abs=0.15)  # the bootstrap's own noise
    assert de["high"] == pytest.approx(differences.mean() + 1.96 * error, abs=0.15)
    # a pair's noise cancels: unpaired, the interval would be several times as wide
    assert de["high"] - de["low"] < 100 * np.std(list(before.values())) * 2 * 1.96 * np.sqrt(2 / 200) / 2
    assert (es["n"], es["difference"], es["left_out"]) == (
        2,
        pytest.approx(30.0),
        1,
    )  # c unscored in one, d only in two
    assert result["average"]["difference"] == pytest.approx((differences.mean() + 30) / 2)
    assert result["average"]["low"] < result["average"]["difference"] < result["average"]["high"]
    back = compare(two, one, "xalpaca")["languages"]["de"]
    assert (back["low"], back["high"]) == pytest.approx((-de["high"], -de["low"]), abs=0.15)


def test_one_item_has_no_interval_and_equal_differences_have_none_in_width(tmp_path: Path) -> None:
    one = evaluation(tmp_path / "one", {"de": {"a": 0.5}, "es": {"a": 0.5, "b": 0.25}})
    two = evaluation(tmp_path / "two", {"de": {"a": 1.0}, "es": {"a": 0.75, "b": 0.5}})
    languages = compare(one, two, "xalpaca")["languages"]
    assert (languages["de"]["difference"], languages["de"]["low"]) == (50.0, None)
    assert [languages["es"][k] for k in ("difference", "low", "high")] == [25.0, 25.0, 25.0]


def test_rounds_of_two_runs_need_one_baseline(tmp_path: Path) -> None:
    """Each round is judged against its own run's round 0."""
    rounds = []
    for run, answers in (("one", ["yes", "no"]), ("two", ["no", "yes"]), ("three", ["yes", "no"])):
        folder = evaluation(tmp_path / run / "round-1" / "judge", {"de": {"a": 0.5, "b": 1.0}})
        write_json(folder / "summary.json", {"judge": "j", "baseline": "round-0"})
        rows = [{"prompt_id": id, "response": text} for id, text in zip("ab", answers, strict=True)]
        write_table(tmp_path / run / "round-0" / "judge" / "answers" / "de.parquet", rows)
        rounds.append(folder)
    assert compare(rounds[0], rounds[2], "xalpaca")["average"]["difference"] == 0
    with pytest.raises(UserError, match="its own run's answers of round 0"):
        compare(rounds[0], rounds[1], "xalpaca")


def write_table(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    one = evaluation(tmp_path / "one", {"de": {"a": 0.5}})
    with pytest.raises(UserError, match="no judged items in common"):
        compare(one, evaluation(tmp_path / "two", {"de": {"b": 0.5}}), "xalpaca")
    with pytest.raises(UserError, match="the judge differs: j and k"):
        compare(one, evaluation(tmp_path / "three", {"de": {"a": 0.5}}, judge="k"), "xalpaca")
    with pytest.raises(UserError, match="no verdicts"):
        compare(one, tmp_path / "nothing", "xalpaca")
    with pytest.raises(UserError, match="no grades"):
        compare(one, one, "mtbench")
