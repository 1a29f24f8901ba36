"""The report, on an invented run (tests/helpers/fake_run.py)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from icr.base.files import read_json, read_rows, write_json, write_rows, write_text
from icr.base.lock import RunLock
from icr.base.rundir import RunDir
from icr.report.findings import conclude, findings
from icr.report.live import Heartbeat, LivePage
from icr.report.numbers import number, significant
from icr.report.page import render, write_report
from icr.report.results import collect, interval
from icr.report.samples import MOST_OF_ONE, pick_pairs
from icr.report.status import BEAT, SILENCE
from icr.rows import PAIRS
from tests.helpers.fake_run import HOSTILE, LANGUAGES, build, config_of
from tests.helpers.pages import Page, assert_sound, page


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return build(tmp_path_factory.mktemp("runs") / "quickstart")


@pytest.fixture(scope="module")
def report(finished: RunDir) -> Page:
    return page(finished)


@pytest.fixture
def short(tmp_path: Path) -> RunDir:
    """A finished run of one round, to be damaged."""
    return build(tmp_path / "short", rounds=1)


def test_page_is_sound_and_small(finished: RunDir, report: Page) -> None:
    assert_sound(report)
    assert "default-src 'none'" in report.html
    assert finished.report.stat().st_size < 500_000


def test_page_says_who_judged_what_and_how_well(report: Page) -> None:
    for fact in (
        "Judge: SmolLM2-135M-Instruct (local)",
        "Baseline: round 0's own answers",
        "shown in both orders",
        "English 40, Spanish 39, Russian 38, German 37, Arabic 36.",
        "only as good as that judge",
        "2 of 2",
        "Languages English, Spanish, Russian, German, Arabic",
        "the reference, aligned on English pairs",
        "Arabic, round 1: no length-controlled win rate; all lengths are equal.",
        "Average, round 1: no length-controlled win rate; missing for Arabic.",
        "no label in the answer",
    ):
        assert fact in report.text, fact


def test_page_holds_the_rates_with_95_percent_intervals(report: Page) -> None:
    """Spanish, round 1: Wilson's with p = .58, t(38) = 2.0244 and n* = .58 · .42 / .059² = 69.98: its centre is
    (.58 + 4.0982 / 139.96) / 1.05856 = .5756, its reach 2.0244 / 1.05856 · √(.2436 / 69.98 + 4.0982 / 139.96²) = .1162.
    """
    rows = re.findall(r"<tr class=\"[^\"]*\"><th scope=\"row\">.*?</tr>", report.html, re.DOTALL)
    cells = [re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", row)).strip() for row in rows]
    assert cells[1] == "■ Spanish 50.0 by definition 58.0 45.9–69.2 66.0 53.4–76.7 +16.0 ▲ 39"
    assert cells[5].startswith("Average 50.0 by definition 56.5 43.7–68.4 63.0 49.8–74.5 +13.0 ▲")
    assert cells[10].split()[:7] == ["▼", "Arabic", "50.0", "by", "definition", "–", "see"]
    assert "is 63.0 % on average over 5 languages (95 % interval 49.8 to 74.5), as judged by" in report.text
    assert "The whole interval is above 50 % in Spanish and Russian." in report.text
    assert "In English, German and Arabic the interval contains 50 %" in report.text


def test_page_holds_alphas_counts_flips_times_and_settings(finished: RunDir, report: Page) -> None:
    for n in (1, 2):
        for fit in read_json(finished.round(n).lengths).values():
            assert significant(fit["alpha"]) in report.text
            assert number(fit["gap"], 1, sign=True) in report.text
        for row in finished.round(n).record.stages["pair"].counts["languages"].values():
            assert number(row["chosen_length"], 0) in report.text
            assert number(row["rejected_language"], 0) in report.text
    assert "would differ on 3 of 32 prompts (9 %)" in report.text
    assert "Training of round 0: 2 pairs were left out: too long." in report.text
    assert "31 s" in report.text and "2 min 54 s" in report.text
    assert "transformers 5.19.0" in report.text
    assert "length_unit: characters" in report.text


def test_figures_are_all_there_in_each_languages_colour(report: Page) -> None:
    """Win rate, LC, two of lengths; per round a sweep, a histogram, three of training; and three of the alignment."""
    drawings = re.findall(r"<svg.*?</svg>", report.html, re.DOTALL)
    assert len(drawings) == 4 + 2 * 5 + 3
    for drawing in drawings[:8]:
        assert all(f"var(--s{slot})" in drawing for slot in range(len(LANGUAGES)))
    assert not re.findall(r"#[0-9a-f]{6}\b", "".join(drawings)), "a colour that would not follow dark mode"
    labels = [a.get("aria-label") for name, a in report.elements if name == "svg"]
    assert len(set(labels)) == len(labels)


def test_several_judges_their_prompt_and_their_agreement_are_in_it(short: RunDir) -> None:
    path = short.round(1).summary
    value = {"value": 61.25, "se": 2.5}
    panel = {
        "judges": {"a": {"average": value}, "b": {"average": value}},
        "majority": {"average": {"value": 60.0}},
        "alpha": {"en": 0.5, "all": 0.75},
    }
    named = {"judge": "2 judges: a, b", "template": "abc", "template_source": "own.yaml", "panel": panel}
    write_json(path, read_json(path) | named)
    text = page(short).text
    assert "Judge: 2 judges: a, b with the prompt own.yaml (abc)" in text
    assert "a: 61.25 ± 2.50; b: 61.25 ± 2.50; what most judges say: 60.00; agreement of the judges" in text
    assert "Krippendorff's α: en 0.50, all 0.75." in text


def test_hostile_texts_are_shown_as_texts(short: RunDir) -> None:
    config = config_of()
    config["models"]["reference"] = config["judge"]["model"] = config["objective"] = HOSTILE
    write_text(short.config, yaml.safe_dump(config, allow_unicode=True))
    summary = read_json(short.round(1).summary)
    summary |= {"judge": HOSTILE, "baseline": HOSTILE}
    summary["languages"]["ru"]["why"] = {"lc_win_rate": HOSTILE}
    write_json(short.round(1).summary, summary)
    record = short.round(1).record.stages["score"]
    record.versions[HOSTILE] = HOSTILE
    record.counts["precision"] = HOSTILE
    short.round(1).write_stage("score", record)
    got = page(short)
    assert_sound(got)
    # control characters stand as their pictures: HTML cannot carry them
    assert HOSTILE.replace("\x1b", "␛").replace("\x00", "␀").replace("\u202e", "\ufffd") in got.text
    assert "49" not in re.findall(r"</table> (\S+) ", got.text), "a text was run as a template"
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", got.html)


def test_model_texts_have_their_own_direction_and_are_folded(finished: RunDir, report: Page) -> None:
    shown = [a for name, a in report.elements if name == "div" and "body" in (a.get("class") or "")]
    answers, pairs = (
        2 * MOST_OF_ONE * 5,
        2 * 3 * 3,
    )  # two rounds: prompt, both texts, and the judge's words in both orders
    assert len(shown) == (answers + pairs) * len(LANGUAGES)
    assert all(a["dir"] == "auto" for a in shown)
    folded = [a for name, a in report.elements if name == "details" and a.get("class") == "text"]
    assert folded and all("open" not in a for a in folded)


def test_examples_are_the_widest_median_and_narrowest_pairs(finished: RunDir) -> None:
    rows = [r for r in read_rows(finished.round(2).pairs) if r["lang"] == "de"]
    margins = sorted(r["chosen_reward"] - r["rejected_reward"] for r in rows)
    picked = pick_pairs(finished.round(2).pairs)["de"]
    assert [which for which, _ in picked] == ["widest margin", "median margin", "narrowest margin"]
    got = [row["chosen_reward"] - row["rejected_reward"] for _, row in picked]
    assert got == pytest.approx([margins[-1], margins[len(margins) // 2], margins[0]])


def test_same_run_gives_the_same_bytes(finished: RunDir, report: Page, tmp_path: Path) -> None:
    """In another process, from another place, with another hash seed."""
    other = shutil.copytree(finished.path, tmp_path / "quickstart", ignore=shutil.ignore_patterns("report.html"))
    code = "import sys, pathlib, icr.report.page as r; r.write_report(r.RunDir(pathlib.Path(sys.argv[1])))"
    root = Path(__file__).resolve().parents[2]
    seeded = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", code, str(other)], check=True, env=seeded)
    assert (Path(other) / "report.html").read_bytes() == finished.report.read_bytes()
    assert not list(finished.path.glob(".*.tmp"))


def test_long_texts_are_cut_and_say_so(short: RunDir) -> None:
    rows = read_rows(short.round(1).pairs)
    rows[0] |= {"chosen": "x" * 50_000, "chosen_reward": 1000.0}
    write_rows(short.round(1).pairs, rows, PAIRS)
    got = page(short)
    assert "all 50,000 characters" in got.text and "44,000 more characters are in the run folder." in got.text
    assert "x" * 6_001 not in got.html


def test_findings_take_sides_only_where_the_interval_does(short: RunDir) -> None:
    summary = read_json(short.round(1).summary)
    for lang, rate in zip(LANGUAGES, (20.0, 30.0, 51.0, 49.0, 90.0), strict=True):
        summary["languages"][lang] |= {"win_rate": rate, "win_rate_interval": [rate - 10, min(rate + 10, 100)]}
    summary["average"] |= {"win_rate": None}
    write_json(short.round(1).summary, summary)
    assert findings(collect(short)) == [
        "The whole interval is above 50 % in Arabic.",
        "The whole interval is below 50 % in English and Spanish.",
        "In Russian and German the interval contains 50 %: no difference is shown.",
    ]


@pytest.mark.parametrize(
    ("bounds", "says"),
    [
        ([51.0, 69.0], "51.0 to 69.0, all above 50: better than before"),
        ([31.0, 49.0], "all below 50: worse than before"),
        ([45.0, 55.0], "with 50 in it: no difference is shown"),
        (None, "there is no interval: all items have the same value"),
    ],
)
def test_a_run_ends_with_what_was_shown_how_sure_and_what_next(
    short: RunDir, bounds: list[float] | None, says: str
) -> None:
    for at in (short.round(0), short.round(1)):
        summary = read_json(at.summary)
        summary["average"] |= {"win_rate": 60.0, "win_rate_se": None, "win_rate_interval": bounds}
        summary["average"]["why"] = {} if bounds else {"win_rate_interval": "all items have the same value"}
        for lang in LANGUAGES:
            summary["languages"][lang]["right_language"] = 0.9
        summary["languages"]["es"]["right_language"] = 0.9 if at.number == 0 else 0.4
        write_json(at.summary, summary)
    shown, sure, following = conclude(collect(short), "runs/short")
    assert shown.startswith("shown: round 1 wins 60.0 % of comparisons with round 0's own answers, on average over 5")
    assert says in sure and sure.endswith("but fewer answers are in the right language in Spanish (90 % → 40 %)")
    assert following == "next: icr best runs/short says which round to take; icr chat runs/short talks to the last one"
    assert "icr init writes a config for your own model" in conclude(collect(short), "runs/short", demo=True)[2]


def test_no_line_of_the_tiles_ends_before_a_percent_sign(report: Page) -> None:
    tiles = re.findall(r"<dd[^>]*>(.*?)</dd>", report.html[: report.html.index('class="facts"')])
    assert any("%" in line for line in tiles) and not any(" %" in line for line in tiles)


def test_nothing_is_concluded_before_a_comparison(short: RunDir) -> None:
    shutil.rmtree(short.round(1).judge)
    assert conclude(collect(short), "runs/short") == []


def test_the_page_is_written_as_the_run_goes_on_and_loads_itself_again(short: RunDir) -> None:
    now, notes = [0.0], list[str]()
    live = LivePage(short, notes.append, clock=lambda: now[0])
    short.report.unlink(missing_ok=True)
    live.update()
    assert not short.report.exists()  # a page costs seconds: not after every short stage
    now[0] = 30.0
    live.update()
    assert 'http-equiv="refresh"' not in short.report.read_text(encoding="utf-8")  # finished
    record = read_json(short.round(1).path / "round.json")
    record["stages"]["judge"]["state"] = "running"
    write_json(short.round(1).path / "round.json", record)
    now[0] = 60.0
    live.update()
    html = short.report.read_text(encoding="utf-8")
    assert '<noscript><meta http-equiv="refresh" content="30"></noscript>' in html and 'data-refresh="30"' in html
    assert len(notes) == 1 and str(short.report) in notes[0]
    write_text(short.round(1).path / "round.json", "{")
    now[0] = 90.0
    live.update()  # never ends a run
    assert "could not be written" in notes[-1]


def test_a_running_command_gives_signs_of_life_and_changes_no_byte(short: RunDir) -> None:
    write_report(short)
    before = short.report.read_bytes()
    os.utime(short.report, (1, 1))
    heart = Heartbeat(short, every=0.01)
    until = time.monotonic() + 10
    while short.report.stat().st_mtime == 1 and time.monotonic() < until:
        time.sleep(0.01)
    heart.stop()
    assert time.time() - short.report.stat().st_mtime < 60 and short.report.read_bytes() == before
    os.utime(short.report, (1, 1))
    time.sleep(0.05)
    assert short.report.stat().st_mtime == 1, "a stopped one gives none"
    assert 3 * BEAT < SILENCE, "one that comes late is not taken for an end"


def test_a_run_that_nobody_works_on_is_stopped(tmp_path: Path) -> None:
    """As `icr status` says. While a command holds the lock, the same records are those of a running one."""
    run = build(tmp_path / "run", until=(2, "score"), running=True)
    lock = RunLock(run.lock)
    page = render(collect(run))
    assert "Running: score of round 2." in page and "seems to have stopped early</b>: last update at" in page
    lock.release()
    html = render(collect(run))
    assert "score of round 2 was interrupted. To continue, run" in html and "icr iterate --run run" in html


def test_intervals_are_the_summarys_and_stay_within_what_a_rate_can_be() -> None:
    assert interval({"win_rate": 60.0, "win_rate_interval": [50.5, 69.0]}, "win_rate") == (50.5, 69.0)
    assert interval({"win_rate": 60.0, "win_rate_se": 1.0, "n": 9, "win_rate_interval": None}, "win_rate") is None
    old = {"win_rate": 97.0, "win_rate_se": 4.0, "n": 21, "unscored": 0}  # of an icr that wrote no intervals
    low, high = interval(old, "win_rate") or (0, 0)
    assert 70 < low < 97 - 2 * 4 and 97 < high < 100
    assert interval(old | {"win_rate_se": None}, "win_rate") is None
    assert interval(old | {"n": 5}, "win_rate") is None, "too few"
    average = {"win_rate": 60.0, "win_rate_se": 1.0, "n": 105}
    assert interval(average, "win_rate") is None, "its error took the languages as independent"


def test_page_shows_what_was_measured_besides_win_rates(finished: RunDir, report: Page) -> None:
    text = " ".join(report.text.split())
    assert "Round 0 → 1 points of win rate" in text and "Round 1 → 2 grade points" in text
    from eval.difference import compare

    row = compare(finished.round(1).judge, finished.round(2).judge, "xalpaca")["languages"]["es"]
    assert f"{row['difference']:+.2f}".replace("-", "−") in text
    grade = read_json(finished.round(2).judge / "mtbench" / "summary.json")["average"]["average"]
    assert f"{grade:.2f}" in text and "grader graded each turn from 1 to 10" in text
    assert "Reward accuracy" in text and "63.0" in text
