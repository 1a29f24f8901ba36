"""The judge's summary against numbers computed by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from eval.xalpaca.pairwise import VERDICTS
from eval.xalpaca.summary import baseline_summary, summarise
from icr.base.files import write_json, write_rows
from tests.helpers.judging import write_answers

GERMAN = "Der Wal und der Hai leben im Meer, der Krake auch."
ENGLISH = "The whale and the shark live in the sea, and the octopus, too."


def write_verdicts(out: Path, lang: str, rows: list[tuple[str, float | None, float | None]]) -> None:
    """(prompt id, policy-first, baseline-first)"""
    table = [
        {"prompt_id": id, "order": order, "preference": value, "reason": "refused" if value is None else None,
         "raw": "", "shortened": id == "3"}
        for id, *values in rows
        for order, value in zip(("policy-first", "baseline-first"), values, strict=True)
    ]  # fmt: skip
    write_rows(out / "verdicts" / f"{lang}.parquet", table, VERDICTS)


def test_summary_by_hand(tmp_path: Path) -> None:
    texts = {"1": GERMAN, "2": ENGLISH, "3": "ja", "4": GERMAN * 2, "5": GERMAN + "!"}
    answers = write_answers(tmp_path / "answers", "de", texts, truncated=["4"])
    write_answers(answers, "fr", {"1": "oui", "2": "non"})
    baseline = {"de": {id: "x" * 10 * int(id) for id in texts}, "fr": {"1": "a", "2": "bc"}}
    out = tmp_path / "judge"
    write_verdicts(out, "de", [("1", 1.0, 0.5), ("2", 0.25, None), ("3", 0.8, 0.4), ("4", 0, 1), ("5", None, None)])
    write_verdicts(out, "fr", [("1", 1.0, 1.0), ("2", 0.5, 0.5)])
    summary = summarise(answers, baseline, out, "some judge", "round-0")
    write_json(tmp_path / "summary.json", summary)  # refuses NaN

    de = summary["languages"]["de"]
    preferences = [0.75, 0.6, 0.5]  # 2 was judged in one order only
    mean = sum(preferences) / 3
    se = 100 * math.sqrt(sum((p - mean) ** 2 for p in preferences) / 2 / 3)
    assert (de["n"], de["unscored"], de["one_order"], de["unscored_verdicts"], de["shortened"]) == (3, 2, 1, 3, 2)
    assert de["reasons"] == {"refused": 3}
    assert (de["win_rate"], de["win_rate_se"]) == pytest.approx((100 * mean, se))
    assert de["mean_length"] == pytest.approx(sum(map(len, texts.values())) / 5)
    assert de["mean_length_baseline"] == pytest.approx(30.0)
    assert (de["right_language"], de["language_unknown"]) == (0.75, 1)  # "ja" is too short to tell
    assert de["truncated"] == pytest.approx(0.2)
    assert de["position_bias"] == pytest.approx(2 / 3)  # items 3 and 4 of 1, 3, 4
    assert 0 < de["lc_win_rate"] < 100 and de["lc_win_rate_se"] > 0 and de["lc_variant"].startswith("length_controlled")
    assert de["win_rate_interval"] is None
    assert de["why"]["win_rate_interval"] == "3 prompts are too few; an interval needs 6"

    fr = summary["languages"]["fr"]
    assert (fr["win_rate"], fr["win_rate_se"], fr["position_bias"]) == (75.0, pytest.approx(25.0), 0.0)
    assert fr["right_language"] is None and "language" in fr["why"]["right_language"]
    assert fr["lc_win_rate"] is None and "too few" in fr["why"]["lc_win_rate"]  # two items, two parameters

    average = summary["average"]
    assert average["win_rate"] == pytest.approx((100 * mean + 75) / 2)
    # a prompt and its translation are one draw: 1 is above the mean in both, 2 is in fr alone
    moves = [100 * (p - mean) / math.sqrt(6) for p in preferences]
    parts = [moves[0] + 25 / math.sqrt(2), moves[1], moves[2], -25 / math.sqrt(2)]
    assert average["win_rate_se"] == pytest.approx(math.sqrt(sum((part / 2) ** 2 for part in parts)))
    assert average["mean_length"] == pytest.approx((de["mean_length"] + 3) / 2)
    assert average["lc_win_rate"] is None and "fr" in average["why"]["lc_win_rate"]
    assert {k: summary[k] for k in ("judge", "baseline", "orders")} == {
        "judge": "some judge", "baseline": "round-0", "orders": "both",
    }  # fmt: skip


def test_a_summary_of_nothing_explains_itself_and_holds_no_nan(tmp_path: Path) -> None:
    answers = write_answers(tmp_path / "answers", "de", {"1": GERMAN, "2": GERMAN})
    write_answers(answers, "es", {})
    out = tmp_path / "judge"
    write_verdicts(out, "de", [("1", None, None), ("2", None, None)])
    write_verdicts(out, "es", [])
    summary = summarise(answers, {"de": {"1": "x", "2": "y"}, "es": {}}, out, "j", "round-0")
    write_json(tmp_path / "summary.json", summary)
    de, es = summary["languages"]["de"], summary["languages"]["es"]
    assert (de["n"], de["unscored"], de["win_rate"], de["position_bias"]) == (0, 2, None, None)
    assert de["why"]["win_rate"] == "no item has a verdict" and "position_bias" in de["why"]
    assert (es["n"], es["unscored"], es["mean_length"]) == (0, 0, None)
    for row in (de, es, summary["average"]):
        assert {k for k, v in row.items() if v is None} == row["why"].keys()


def test_round_0_against_itself_is_50_by_definition(tmp_path: Path) -> None:
    answers = write_answers(tmp_path / "answers", "de", {"1": "eins", "2": "zwei"})
    summary = baseline_summary(answers)
    write_json(tmp_path / "summary.json", summary)
    row = summary["languages"]["de"]
    assert summary["judge"] == "none (baseline)" and summary["baseline"] == "round-0"
    assert [row[k] for k in ("n", "win_rate", "win_rate_se", "lc_win_rate", "lc_win_rate_se")] == [2, 50, 0, 50, 0]
    assert row["mean_length"] == row["mean_length_baseline"] == 4
    assert row["position_bias"] is None and row["why"]["position_bias"]
    assert summary["average"]["win_rate"] == 50 and summary["average"]["win_rate_se"] == 0
