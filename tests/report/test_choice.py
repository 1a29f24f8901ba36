"""The head of the transfer page: which source to take, and how sure that is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from icr.report import plots
from icr.report.transfer import write_transfer_page
from icr.report.transfer_choice import choose, heat_bounds, heat_step, in_words, scale_of, summarise
from tests.helpers.contrast import contrast
from tests.helpers.pages import Page, assert_sound


def cell(source: str, target: str, accuracy: float, length: float = 50.0) -> dict[str, Any]:
    return {
        "source": source, "target": target, "n": 120, "groups": 60, "accuracy": accuracy, "auc": None, "length": length,
        "accuracy_interval": [accuracy - 5, accuracy + 5], "above_length": accuracy - length, "majority": None,
        "above_length_interval": [accuracy - length - 6, accuracy - length + 6], "human_agreement": None,
    }  # fmt: skip


def ahead(low: float) -> dict[str, Any]:
    return {"difference": low + 2, "difference_interval": [low, low + 4]}


def made(**changes: Any) -> dict[str, Any]:
    """German: Spanish is better with the whole interval. Turkish: nothing is clear, and not above length."""
    return {
        "sources": ["en", "es"],
        "missing": [],
        "agreement": [],
        "cells": [cell("en", "de", 80.0), cell("es", "de", 90.0), cell("en", "tr", 54.0), cell("es", "tr", 52.0)],
        "targets": {
            "de": {"order": ["es", "en"], "ranks": {"es": 1, "en": 2}, "chances": {"es": 0.97, "en": 0.03},
                   "ahead": {"en": ahead(0.5)}},
            "tr": {"order": ["en", "es"], "ranks": {"en": 1, "es": 2}, "chances": {"en": 0.6, "es": 0.4},
                   "ahead": {"es": ahead(-1.0)}},
        },
    } | changes  # fmt: skip


def test_a_choice_is_sure_only_if_it_is_ahead_of_every_other_source() -> None:
    german, turkish = choose(made())
    assert (german.source, german.sure, german.behind, german.above_length) == ("es", True, ["en"], True)
    assert (turkish.source, turkish.sure, turkish.alike, turkish.above_length) == ("en", False, ["es"], False)
    assert summarise([german, turkish]) == (
        "For 1 of 2 targets one source is better than every other one: Spanish for German. For the others several "
        "may be equally good, as far as these rows can tell. In Turkish no model is clearly better than length alone; "
        "do not rely on a choice there."
    )
    assert summarise([turkish]).startswith("For none of 1 targets is one source better than every other one; several")
    assert "But some are worse for Turkish." in summarise([replace(turkish, behind=["de"])])
    assert scale_of([german, turkish]) == (40.0, 100.0)  # from length, 50 − 0, and 49 up to 95
    single = made(sources=["en"], cells=[cell("en", "de", 80.0)])
    single["targets"] = {"de": {"order": ["en"], "ranks": {"en": 1}, "chances": {"en": 1.0}, "ahead": {}}}
    assert choose(single)[0].chance is None and summarise(choose(single)) == ""


def test_the_page_begins_with_what_to_take(tmp_path: Path) -> None:
    page = Page(write_transfer_page(made(), tmp_path).read_text(encoding="utf-8"))
    assert_sound(page)
    head = page.text[: page.text.index("Share of rows")]
    for words in (
        "Spanish for German",
        "German Spanish sure: better than every other source best with probability 0.97 90.0 85.0–95.0",
        "Turkish English open: Spanish may be as good best with probability 0.60 not clearly better than length alone",
    ):
        assert words in head, words
    labels = [attributes["aria-label"] for name, attributes in page.elements if name == "svg"]
    table = page.text[page.text.index("Framed: source") : page.text.index("Beside length")]
    assert "Trained on German Turkish English 80.0" in table, "tables have names as well"
    assert labels[0] == "German: 90.0, 95 % interval 85.0 to 95.0; length alone 50.0"


def test_what_is_missing_is_said_at_the_top_of_a_page(tmp_path: Path) -> None:
    result = made(missing=["fr"], failed={"rm-fr": "out of memory"}, waiting={"best-fr-de": "rm-fr"})
    page = Page(write_transfer_page(result, tmp_path).read_text(encoding="utf-8"))
    assert_sound(page)
    assert "Not complete. French: no model yet; it failed." in page.text[: page.text.index("Which source")]
    assert "rm-fr failed: out of memory" in page.text and "best-fr-de waits for rm-fr" in page.text


def test_steps_of_colour_run_from_the_lowest_to_the_highest_and_can_be_read() -> None:
    rows = [{"x": 60.0}, {"x": None}, {"x": 95.0}]
    assert heat_bounds(rows, "x") == (60.0, 95.0) and heat_bounds([{"x": None}], "x") == (None, None)
    assert [heat_step(x, 60.0, 95.0) for x in (60, 64.9, 65, 94, 95)] == [0, 0, 1, 6, 6]
    assert heat_step(5, 5, 5) == heat_step(5, None, None) == plots.HEAT_STEPS // 2
    for steps in zip(*plots.HEAT, strict=True):
        assert all(contrast(background, ink) >= 4.5 for background, ink in steps)


def test_languages_in_words() -> None:
    words = {"es": "Spanish", "en+es": "English + Spanish", "en-to-es": "English → Spanish", "all": "all"}
    assert {code: in_words(code) for code in words} == words
