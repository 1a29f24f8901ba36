"""Differences between two evaluations: by hand, and what cannot be compared."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from scipy.stats import ttest_1samp

from eval.difference import compare
from eval.terms import describe_judge
from eval.xalpaca.pairwise import VERDICTS
from icr.base.errors import UserError
from icr.base.files import write_json, write_rows
from icr.report.evaluation_tables import difference_table
from icr.rows import RESPONSES


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
    scipy = ttest_1samp(differences, 0).confidence_interval()
    assert (de["n"], de["difference"]) == (200, pytest.approx(differences.mean()))
    assert (de["low"], de["high"]) == pytest.approx((scipy.low, scipy.high))
    # c is unscored in one, d is only in two
    assert (es["n"], es["difference"], es["left_out"]) == (2, pytest.approx(30.0), 1)
    assert (es["low"], es["why"]) == (None, "2 prompts are too few; an interval needs 6")
    assert result["average"]["difference"] == pytest.approx((differences.mean() + 30) / 2)
    assert result["average"]["why"] == es["why"], "an average is as sure as its least sure language"
    back = compare(two, one, "xalpaca")["languages"]["de"]
    assert (back["low"], back["high"]) == pytest.approx((-scipy.high, -scipy.low))


def test_an_average_over_translations_is_no_surer_than_its_prompts(tmp_path: Path) -> None:
    """Five languages that say nearly the same have the interval of the prompts' means, not of five times as many."""
    rng = np.random.default_rng(2)
    change = rng.choice([-0.5, 0.0, 0.5], 30)
    base = {lang: dict.fromkeys(map(str, range(30)), 0.5) for lang in ("de", "en", "es", "fr", "ru")}
    moved = {lang: {str(n): 0.5 + c * float(rng.random() < 0.9) for n, c in enumerate(change)} for lang in base}
    result = compare(evaluation(tmp_path / "one", base), evaluation(tmp_path / "two", moved), "xalpaca")["average"]
    means = np.mean([[100 * (v - 0.5) for v in of.values()] for of in moved.values()], axis=0)
    scipy = ttest_1samp(means, 0).confidence_interval()
    assert (result["low"], result["high"]) == pytest.approx((scipy.low, scipy.high))


def test_equal_differences_and_languages_of_one_side_are_named(tmp_path: Path) -> None:
    eight = list("abcdefgh")
    one = evaluation(tmp_path / "one", {"es": dict.fromkeys(eight, 0.5), "sw": {"a": 0.5}, "th": {"a": 0.5}})
    two = evaluation(tmp_path / "two", {"es": dict.fromkeys(eight, 0.75), "bn": {"a": 0.5}, "th": {"b": 0.5}})
    result = compare(one, two, "xalpaca")
    es = result["languages"]["es"]
    assert (es["difference"], es["low"]) == (25.0, None) and "equal" in str(es["why"])
    assert (result["only_first"], result["only_second"]) == (["sw", "th"], ["bn", "th"])
    out = io.StringIO()
    Console(file=out, width=100).print(difference_table(result, "one", "two"))
    assert "only the first has sw, th; not in the average" in out.getvalue()
    assert "es: no interval: all values are equal" in out.getvalue()


def recorded(folder: Path, **settings: object) -> Path:
    """What an evaluation was made from, as `icr judge xalpaca` keeps it."""
    inputs = {"judge model": str(settings.pop("judge_model", "org/judge@1"))}
    record = {"state": "done", "started": 1.0, "key": "k", "inputs": inputs, "settings": settings}
    write_json(folder / "steps.json", {"xalpaca": record})
    return folder


SAME = {"judge.orders": "both", "judge.base_url": "http://a/v1", "judge.temperature": 0.0, "judge.limit": 5}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"judge.orders": "seeded"}, "judge.orders: both and seeded"),
        ({"judge.base_url": "http://b/v1"}, "judge.base_url: http://a/v1 and http://b/v1"),
        ({"judge.temperature": 0.7}, "judge.temperature: 0.0 and 0.7"),
        ({"judge_model": "org/judge@2"}, "judge model: org/judge@1 and org/judge@2"),
    ],
)
def test_what_was_judged_otherwise_is_refused_and_named(tmp_path: Path, change: dict[str, object], named: str) -> None:
    one = recorded(evaluation(tmp_path / "one", {"de": {"a": 0.5}}), **SAME)
    two = recorded(evaluation(tmp_path / "two", {"de": {"a": 1.0}}), **{**SAME, **change})
    with pytest.raises(UserError, match="differ in more than the model") as refused:
        compare(one, two, "xalpaca")
    assert refused.value.what.splitlines()[1:] == [f"    {named}"]


def test_more_items_of_the_same_can_be_compared(tmp_path: Path) -> None:
    one = recorded(evaluation(tmp_path / "one", {"de": {"a": 0.5}}), **SAME)
    two = recorded(evaluation(tmp_path / "two", {"de": {"a": 1.0, "b": 0.0}}), **{**SAME, "judge.limit": 9})
    assert compare(one, two, "xalpaca")["average"]["difference"] == 50.0


def test_other_prompts_templates_and_baseline_answers_under_the_same_ids_are_refused(tmp_path: Path) -> None:
    folders = []
    for name, prompt, theirs, template in (("one", "Wer?", "ich", "t1"), ("two", "Was?", "du", "t2")):
        folder = evaluation(tmp_path / name, {"de": {"a": 0.5}})
        summary = {"judge": "j", "baseline": "b", "template": template}
        write_json(folder / "summary.json", summary)
        row = {"prompt_id": "a", "lang": "de", "sample": 0, "prompt": prompt, "response": "!", "token_ids": [1]}
        write_rows(folder / "answers" / "de.parquet", [row | {"finish_reason": "stop"}], RESPONSES)
        write_json(folder / "alpaca_eval" / "de" / "annotations.json", [{"id": "a", "output_1": theirs}])
        folders.append(folder)
    with pytest.raises(UserError) as refused:
        compare(*folders, "xalpaca")
    assert [line.strip() for line in refused.value.what.splitlines()[1:]] == [
        "judge's template: t1 and t2",
        "prompts: 1 of 1 are other texts (de a)",
        "baseline's answers: 1 of 1 are other texts (de a)",
    ]


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
    with pytest.raises(UserError, match="judge: j and k"):
        compare(one, evaluation(tmp_path / "three", {"de": {"a": 0.5}}, judge="k"), "xalpaca")
    with pytest.raises(UserError, match="no verdicts"):
        compare(one, tmp_path, "xalpaca")
    with pytest.raises(UserError, match="no grades"):
        compare(one, one, "mtbench")


def test_the_judge_of_a_summary_in_words() -> None:
    summary = {"judge": "openai: m", "template": "abc", "template_source": "icr's own"}
    assert describe_judge(summary) == describe_judge({"judge": "openai: m"}) == "openai: m"
    assert describe_judge({"judge": "m:C", "rule": "a beats b"}) == "m:C (a beats b)"
    there = {"address": "https://example.org/v1", "template_source": "own.yaml"}
    assert describe_judge(summary | there) == "openai: m at https://example.org/v1 with the prompt own.yaml (abc)"
