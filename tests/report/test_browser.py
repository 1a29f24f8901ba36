"""Pages in a real browser: what cannot be seen in their HTML."""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path

import pytest

from icr.report.page import write_report
from icr.report.status import SILENCE
from icr.report.transfer import write_transfer_page
from tests.helpers.browser import BROWSER, look
from tests.helpers.fake_run import build
from tests.report.test_choice import made

pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed"),
    pytest.mark.timeout(300),
]


COLOURS = """
        const style = node => frame.contentWindow.getComputedStyle(page.querySelector(node));
        out.colours = [style("body").backgroundColor, style("body").color, style("td.h6").backgroundColor];
        """


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """run.html: of a run that goes on, with hostile, long, Thai and Arabic texts; transfer.html."""
    folder = tmp_path_factory.mktemp("pages")
    write_report(build(folder / "run", until=(2, "train"), running=True)).rename(folder / "run.html")
    write_transfer_page(made(), folder / "run").rename(folder / "transfer.html")
    return folder


def test_nothing_is_wider_than_a_phone_and_no_text_runs(pages: Path) -> None:
    found = look(
        pages,
        """
        out.widths = {};
        for (const name of ["run.html", "transfer.html"]) for (const width of [390, 820, 1150]) {
          const page = await open(name, width);
          out.widths[`${name} ${width}`] = page.documentElement.scrollWidth - width;
          out.scripts = (out.scripts || 0) + page.querySelectorAll("article script, article img").length;
        }
        { const page = await open("transfer.html", 1150); COLOURS }
        const page = await open("run.html", 390);
        choose(page, "language", ""); choose(page, "round", "");
        out.wide = page.documentElement.scrollWidth;
        out.rtl = frame.contentWindow.getComputedStyle(page.querySelector("#pairs-1-4-0 .body")).direction;
        """.replace("COLOURS", COLOURS),
    )
    assert set(found["widths"].values()) == {0}, found["widths"]
    assert (found["wide"], found["scripts"], found["rtl"]) == (390, 0, "rtl")
    assert found["colours"] == ["rgb(255, 255, 255)", "rgb(27, 29, 33)", "rgb(13, 60, 110)"]


def test_filters_work_without_a_script_of_theirs(pages: Path) -> None:
    found = look(
        pages,
        """
        const page = await open("run.html", 1150);
        out.first = shown(page).map(article => article.id);
        choose(page, "language", "l1"); choose(page, "kind", "pairs"); choose(page, "round", "r1");
        out.pairs = shown(page).map(article => article.id);
        choose(page, "kind", ""); choose(page, "outcome", "won");
        out.won = shown(page).every(article => article.classList.contains("won"));
        """,
    )
    assert found["first"] and all(id.split("-")[2] == "0" for id in found["first"]), "the first language alone"
    assert found["pairs"] == ["pairs-1-1-0", "pairs-1-1-1", "pairs-1-1-2"] and found["won"]


def test_a_page_that_loads_itself_again_stays_where_the_reader_is(pages: Path) -> None:
    found = look(
        pages,
        """
        let page = await open("run.html", 1150);
        out.offered = !page.getElementById("follow").closest("label").hidden;
        choose(page, "language", "l2"); page.getElementById("follow").checked = false;
        page.querySelector("#settings details").open = true;
        const place = shown(page)[2];
        place.scrollIntoView(); frame.contentWindow.scrollBy(0, 7);
        const before = [place.id, Math.round(place.getBoundingClientRect().top)];
        const again = loaded();
        frame.contentWindow.location.reload();
        await again;
        page = frame.contentDocument;
        const now = page.getElementById(place.id);
        out.moved = Math.abs(Math.round(now.getBoundingClientRect().top) - before[1]);
        out.y = frame.contentWindow.scrollY;
        out.language = page.getElementById("language").value;
        out.open = page.querySelector("#settings details").open;
        out.follows = page.getElementById("follow").checked;
        """,
    )
    assert found["offered"] and found["moved"] <= 1 and found["y"] > 1000
    assert (found["language"], found["open"], found["follows"]) == ("l2", True, False)


@pytest.mark.parametrize("seconds", [60, 3600], ids=["just now", "an hour ago"])
def test_a_page_without_signs_of_life_says_that_its_run_has_ended(pages: Path, seconds: int) -> None:
    """Nobody can write it into the page of a run that was killed."""
    last = time.time() - seconds
    os.utime(pages / "run.html", (last, last))
    found = look(
        pages,
        """
        const page = await open("run.html", 820);
        const shows = name => page.querySelector(name).getClientRects().length > 0;
        out.shown = [shows(".ended"), shows(".alive"), shows(".sign")];
        out.times = [...page.querySelectorAll(".follow time")].map(time => time.textContent);
        out.command = page.querySelector(".ended code").textContent;
        """,
    )
    assert found["shown"] == ([True, False, False] if seconds > SILENCE else [False, True, True])
    assert found["command"] == f"icr iterate --run {shlex.quote(str(pages))}"
    assert len(found["times"]) == 2 and set(found["times"]) == {
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last))
    }


def test_the_dark_page_is_dark(pages: Path) -> None:
    found = look(pages, f"const page = await open('transfer.html', 1150); {COLOURS}", dark=True)
    assert found["colours"] == ["rgb(21, 23, 27)", "rgb(231, 232, 234)", "rgb(201, 226, 250)"]
