"""The page of an audit: model texts are texts, filters find what they say, and nothing runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from eval.audit.summary import audit
from eval.audit.verdicts import Evaluated, Judged
from eval.xalpaca.pairwise import ORDERS, VerdictRow
from icr.report.audit_page import MOST, render_audit, select
from icr.report.glance import glance_at_judge
from tests.helpers.fake_run import HOSTILE
from tests.helpers.pages import Page, assert_sound

TAKEN_APART = HOSTILE.replace("\x1b", "␛").replace("\x00", "␀").replace("\u202e", "\ufffd")


def judged(n: int, lang: str, said: list[float | None], text: str = "Ein Wal", wrong: int = 0) -> Judged:
    verdicts = [
        VerdictRow(prompt_id=str(n), order=order, preference=value, reason=None if value is not None else HOSTILE,
                   raw=text, shortened=False)
        for order, value in zip(ORDERS, said, strict=True)
    ]  # fmt: skip
    return Judged(str(n), lang, f"{text}?", f"{text}, lang und länger{'!' * n}", text, verdicts, wrong)


@pytest.fixture(scope="module")
def evaluated() -> Evaluated:
    summary = {"judge": HOSTILE, "baseline": HOSTILE, "orders": "both"}
    german = [judged(n, "de", [0.9, 0.2] if n < 3 else [1.0, 0.7], HOSTILE, wrong=int(n == 4)) for n in range(8)]
    return Evaluated(
        Path("somewhere"), summary, {"de": german, "es": [judged(0, "es", [1, 1]), judged(1, "es", [None, 0.0])]}
    )


@pytest.fixture(scope="module")
def page(evaluated: Evaluated) -> Page:
    labels = {"de": {str(n): float(n % 2) for n in range(8)}}
    return Page(render_audit(evaluated, audit(evaluated, labels), labels))


def test_hostile_texts_of_models_judges_and_users_are_texts(page: Page) -> None:
    assert_sound(page)
    assert "default-src 'none'" in page.html
    assert page.text.count(TAKEN_APART) >= 8 * 4 + 2, "prompt, two answers and the judge's words, of every prompt"
    assert f"unscored: {TAKEN_APART}" in page.text
    assert "Spanish: no" in page.text and "de:" not in page.text, "reasons name languages as the tables do"
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", page.html)
    assert "49" not in re.findall(r"</table> (\S+) ", page.text), "a text was run as a template"


def test_filters_find_what_they_say(page: Page) -> None:
    articles = [(attributes["class"] or "").split() for name, attributes in page.elements if name == "article"]
    assert len(articles) == 10
    inputs = {attributes["id"] for name, attributes in page.elements if name == "input"}
    rules = re.findall(r"main:has\(#(\w+):checked\) article:not\(\.(\w+)\)", page.html)
    assert {id for id, _ in rules} | {"every"} == inputs
    counts = {id: sum(mark in article for article in articles) for id, mark in rules}
    # the judge has the model win everywhere, on average over the orders; people say so of odd prompts alone
    assert counts == {"l0": 8, "l1": 2, "flips": 3, "disputed": 4, "wrong": 1, "unscored": 1}
    for words in ("another winner in the other order (3)", "people disagree (4)", "German (8)", "Spanish (2)"):
        assert words in page.text
    assert "model first: model better, 90 % for the model" in page.text
    assert "the model's answer is in the wrong language" in page.text


def test_what_is_missing_is_said_in_words(page: Page) -> None:
    why = "6 prompts with one answer in the wrong language are needed, and there are 1"
    assert f"no wrong-language bias: {why}" in page.text
    assert "κ with the other order" in page.text and "orders kappa" not in page.text
    assert "\u202e" not in page.text, "a name must not turn the page's own words around"


def test_the_head_says_what_sways_the_judge_and_what_that_changes(page: Page) -> None:
    result = {
        "average": {
            "position": {"value": 12.5, "low": 3.0, "high": 22.0},
            "verbosity": {"value": -1.25, "low": -3.0, "high": 1.0},
            "orders_agree": {"value": 70.0}, "people_agree": {"value": 61.0}, "judge_alone": {"value": 60.0},
            "corrected": {"value": 55.5, "low": 50.1, "high": 61.0},
        }
    }  # fmt: skip
    order, length, agrees, rate = glance_at_judge(result)
    assert (order.answer, order.tone, order.lines[0]) == ("Yes", "bad", "What is shown first gets +12.5 points.")
    assert (length.answer, length.tone, length.lines[1]) == ("Not shown", "", "95 % interval: −3.0 to +1.0.")
    assert (agrees.answer, agrees.lines) == ("61.0 % with people", ["70.0 % with itself, in the other order."])
    assert (rate.answer, rate.lines[0]) == ("55.5 %", "By the judge alone: 60.0 %.")
    assert "Does the order sway it?" in page.text[: page.text.index("What sways it")]
    assert [tile.answer for tile in glance_at_judge({"average": {}})] == ["Not known", "Not known"]


def test_what_people_dispute_is_shown_first_and_the_rest_is_counted(evaluated: Evaluated) -> None:
    people = {"6": 0.0}
    order = [shown.item.id for shown in select(evaluated.languages["de"], 0, people)]
    assert order == ["6", "0", "1", "2", "3", "4", "5", "7"]
    many = [judged(n, "de", [1.0, 1.0]) for n in range(MOST + 5)]
    whole = Evaluated(Path("somewhere"), evaluated.summary, {"de": many})
    got = Page(render_audit(whole, audit(whole)))
    assert got.count("article") == MOST and "German: 5 more prompts are in the folder and not here." in got.text
