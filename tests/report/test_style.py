"""The look of every page: what can be read of it without a browser."""

from __future__ import annotations

import re

import pytest

from icr.report import plots
from icr.report.page import environment
from tests.helpers.contrast import contrast


@pytest.fixture(scope="module")
def style() -> str:
    return environment().get_template("style.html.j2").render()


def colours(style: str) -> list[dict[str, str]]:
    """The variables on white, and on black."""
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    return [dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", block)) for block in blocks]


def test_a_contrast_is_what_the_standard_says() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


def test_text_has_a_contrast_of_4_5_and_marks_of_3_in_light_and_dark(style: str) -> None:
    light, dark = colours(style)
    assert light["paper"] == "#ffffff" and light.keys() == dark.keys()
    for of in (light, dark):
        for text in ("ink", "muted", "link", "good", "bad"):
            for paper in ("paper", "soft"):
                assert contrast(of[text], of[paper]) >= 4.5, (text, paper)
        for slot in range(len(plots.PALETTE)):
            assert contrast(of[f"s{slot}"], of["paper"]) >= 3, f"language {slot}"


def test_every_variable_that_a_page_uses_is_there(style: str) -> None:
    names = environment().list_templates(extensions=["j2"])
    assert "report.html.j2" in names
    loader = environment().loader
    assert loader is not None
    sources = "".join(loader.get_source(environment(), name)[0] for name in names) + style
    used = set(re.findall(r"var\(--([a-z]+)\)", sources))
    light, dark = (set(re.findall(r"--(\w+):", block)) for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL))
    assert used <= light == dark


def test_keyboard_users_see_where_they_are_and_paper_has_no_controls(style: str) -> None:
    assert ":focus-visible" in style
    printed = style[style.index("@media print") :]
    assert re.search(r"nav[^{]*\.filters[^{]*\{ display: none; \}", printed)
    assert "overflow: visible" in printed, "a table that scrolls on a screen is cut on paper"
