"""A report's page taken apart, and what holds for every one."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

from icr.base.rundir import RunDir
from icr.report.page import write_report

VOID = {"meta", "br", "hr", "img", "input", "link", "base"}


class Page(HTMLParser):
    """A page taken apart: its text, its elements, and whether they close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.elements, self.open = html, list[tuple[str, dict[str, str | None]]](), list[str]()
        self.pieces: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"left open: {self.open}"
        self.text = re.sub(r"\s+", " ", " ".join(self.pieces))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["style"], ["script"]):
            self.pieces.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def page(run: RunDir) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


def assert_only_our_script(got: Page) -> None:
    """At most one script, at the end, which the page's policy names by its hash: a text of a model cannot run."""
    scripts = re.findall(r"<script>(.*?)</script>", got.html, re.DOTALL)
    assert got.count("script") == len(scripts) <= 1, "a script of somebody else"
    allowed = re.findall(r"script-src ([^\"]*)\"", got.html)
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    assert allowed == [f"'sha256-{digest}'" for digest in hashes]


def assert_sound(got: Page) -> None:
    """What holds for every report, whatever its run looks like."""
    assert not re.search(r"\b(None|nan|NaN|inf|Undefined)\b", got.text), "a missing value is printed as such"
    assert_only_our_script(got)
    assert {name for name, _ in got.elements}.isdisjoint({"link", "iframe", "img", "object", "embed", "base"})
    for name, attributes in got.elements:
        assert not [a for a in attributes if a.startswith("on")], name
        for key in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
            assert (attributes.get(key) or "#").startswith("#"), f"{name} refers to {attributes[key]}"
    assert "@import" not in got.html
    assert all(target.startswith("#") for target in re.findall(r"url\(\s*['\"]?([^)]*)", got.html))
    assert not re.search(r"https?://", got.html), "this run's texts name no address, so none may be there"
