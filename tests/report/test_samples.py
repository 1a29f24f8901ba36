"""The browser of answers and pairs, and the four tiles at the head of a run's page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from eval.mtbench.summary import GradeRow
from icr.base.files import read_json, read_rows, write_json
from icr.base.rundir import RunDir, StageRecord
from icr.report.glance import glance
from icr.report.measured import Measured
from icr.report.results import collect
from icr.report.samples import MOST_OF_ONE, Article, choices_of, read_articles
from tests.helpers.fake_answers import LONG_WORD, THAI
from tests.helpers.fake_run import HOSTILE, LANGUAGES, build
from tests.helpers.pages import Page, assert_sound, page


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return build(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def articles(run: RunDir) -> list[Article]:
    results = collect(run)
    found = read_articles(run, results)
    assert not results.missing
    return found


@pytest.fixture(scope="module")
def report(run: RunDir) -> Page:
    return page(run)


def test_answers_and_pairs_of_every_round_and_language_are_there(articles: list[Article]) -> None:
    places = [(a.kind, a.round, a.language.code) for a in articles]
    for code in LANGUAGES:
        for n in (1, 2):
            assert places.count(("answers", n, code)) == MOST_OF_ONE and places.count(("pairs", n, code)) == 3
    assert len({a.id for a in articles}) == len(articles)
    first = articles[0]
    assert (first.round, first.sides[0].text, first.sides[1].text[:6]) == (2, HOSTILE, "(en) 0")
    assert [a.sides[0].text for a in articles[1:3]] == [LONG_WORD, THAI]
    assert [who for who, _, _ in first.said] == ["model first", "baseline first"]
    assert sum(a.printed for a in articles) == 2 * len(LANGUAGES), "on paper: an answer and a pair of each language"


def test_an_outcome_is_the_mean_over_both_orders(run: RunDir, articles: list[Article]) -> None:
    rows = read_rows(run.round(2).judge / "verdicts" / "ru.parquet")
    means = {id: sum(r["preference"] for r in rows if r["prompt_id"] == id) / 2 for id in ("h0", "h1", "h2", "h3")}
    shown = [a for a in articles if (a.kind, a.round, a.language.code) == ("answers", 2, "ru")]
    assert [a.outcomes[0] for a in shown[:4]] == ["won" if mean > 0.5 else "lost" for mean in means.values()]


def test_filters_offer_what_is_there_and_hide_the_rest(articles: list[Article], report: Page) -> None:
    groups = {id: options for id, _, options in choices_of(articles).groups}
    assert [name for _, name in groups["language"]] == ["English", "Spanish", "Russian", "German", "Arabic", "all"]
    assert groups["round"] == [("r2", "2"), ("r1", "1"), ("", "all")]
    rules = re.findall(r"\.browser:has\(#(\w+) option\[value=(\w+)\]:checked\) article:not\(\.(\w+)\)", report.html)
    assert all(value == mark for _, value, mark in rules)
    assert {(id, value) for id, value, _ in rules} == {
        (id, value) for id, options in groups.items() for value, _ in options if value
    }
    classes = [(a["class"] or "").split() for name, a in report.elements if name == "article"]
    assert len(classes) == len(articles)
    assert sum({"l1", "r2", "pairs"} <= set(of) for of in classes) == 3
    only_pairs = choices_of([a for a in articles if a.kind == "pairs" and a.round == 2])
    assert [id for id, _, _ in only_pairs.groups] == ["language"], "a filter without a choice is not there"


def test_a_round_whose_answers_cannot_be_read_is_named(tmp_path: Path) -> None:
    run = build(tmp_path / "run", rounds=1)
    (run.round(1).judge / "alpaca_eval" / "de" / "annotations.json").unlink()
    got = page(run)
    assert_sound(got)
    assert "The answers of round 1 cannot be shown: the answers that were compared cannot be read" in got.text


def test_the_head_says_whether_it_got_better_where_how_sure_and_at_what_cost(run: RunDir, report: Page) -> None:
    better, where, sure, cost = glance(collect(run), Measured())
    assert (better.answer, better.tone) == ("Not shown", "") and "95 % interval: 49.8 to 74.5." in better.lines
    assert where.answer == "Spanish and Russian" and where.lines == ["Not shown: English, German and Arabic."]
    assert (
        sure.answer == "36 to 40 prompts per language"
        and "For answers of equal length: 60.2 % (47.2 to 71.9)." in sure.lines
    )
    assert cost.answer == "Answers 7 % longer"  # 480 → 516
    assert cost.lines == ["480 → 516 characters.", "Right language: at least 81 % in each (Arabic 81 % → 81 %)."]
    head = report.text[: report.text.index("Policy at the start")]
    assert all(tile.question in head and tile.answer in head for tile in (better, where, sure, cost))


@pytest.mark.parametrize(
    ("bounds", "answer", "tone"),
    [([51.0, 69.0], "Yes", "good"), ([31.0, 49.0], "No, it got worse", "bad"), (None, "Not shown", "")],
)
def test_the_first_tile_follows_the_interval(
    tmp_path: Path, bounds: list[float] | None, answer: str, tone: str
) -> None:
    run = build(tmp_path / "run", rounds=1)
    summary = read_json(run.round(1).summary)
    summary["average"] |= {"win_rate": 60.0, "win_rate_se": None, "win_rate_interval": bounds}
    summary["languages"]["es"]["right_language"] = 0.4
    write_json(run.round(1).summary, summary)
    grade = GradeRow(
        language="average", round=0, n=None, average=4.0, average_se=None, low=None, high=None, unscored_turns=None,
        mean_length=None, right_language=None, turn_1=None, turn_2=None, categories={},
    )  # fmt: skip
    tiles = glance(collect(run), Measured(mtbench=[grade, {**grade, "round": 1, "average": 3.5}]))
    assert (tiles[0].answer, tiles[0].tone) == (answer, tone)
    assert "Fewer answers in the right language: Spanish 93 % → 40 %." in tiles[3].lines and tiles[3].tone == "bad"
    assert "MT-Bench: 4.0 → 3.5 of 10." in tiles[3].lines


def test_nothing_is_said_before_a_comparison(tmp_path: Path) -> None:
    assert glance(collect(build(tmp_path / "run", until=(1, "score"))), Measured()) == []


def test_a_stopped_run_says_so(tmp_path: Path) -> None:
    run = build(tmp_path / "run", until=(1, "train"))
    run.round(1).write_stage("train", StageRecord(state="failed", started=1.0, seconds=12.0))
    got = page(run)
    assert_sound(got)
    assert "Stopped: train of round 1 failed. To continue, run" in got.text and "icr iterate --run" in got.text
