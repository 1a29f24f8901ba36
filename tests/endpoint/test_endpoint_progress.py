"""Cost and unscored verdicts stand beside the progress: from the judge's process to the terminal."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from icr.work import display as display
from icr.work.launch import Worker, run_workers
from tests.helpers.endpoints import item, judge, verdicts_on
from tests.helpers.judging import Steps
from tests.helpers.stub_server import Stub, says


def test_a_status_goes_with_the_progress_and_reaches_the_watcher(tmp_path: Path) -> None:
    body = (
        "import sys; from pathlib import Path; from icr.base.progress import EventFile\n"
        "e = EventFile(Path(sys.argv[1])); e.status('$0.01, 0 unscored'); e.progress(1, 2)\n"
        "e.status('$0.02, 1 unscored'); e.progress(2, 2); e.send(event='done', counts={})"
    )
    events = tmp_path / "events"
    watcher = Steps()
    run_workers([Worker([sys.executable, "-c", body, str(events)], events, tmp_path / "log")], watcher)  # type: ignore[arg-type]
    assert watcher.statuses[-1] == "$0.02, 1 unscored" and watcher.steps[-1] == (2, 2)
    assert json.loads(events.read_text().splitlines()[0])["status"] == "$0.01, 0 unscored"


def test_the_terminal_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "PLAIN_SECONDS", 0.0)
    out = io.StringIO()
    with display.StageDisplay(Console(file=out, width=120), "judge") as stage:
        stage.status("$0.12, 3 unscored")
        stage.progress(1, 20)
        stage.progress(5, 20)
    assert "judge: 5/20 $0.12, 3 unscored" in out.getvalue() and "left" in out.getvalue()


def test_the_judge_tells_cost_and_unscored_as_it_goes(tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("m: {input: 10000, output: 0}")
    with Stub(lambda request, before: says("C" if "Question 1?" in request["messages"][0]["content"] else "A")) as stub:
        asked = judge(tmp_path, stub.url, steps := Steps(), concurrency=1, prices=str(prices))
        verdicts_on(asked, item(0), item(1), item(2))
    # the second question stays unscored after two further readings
    assert [status.split(", ")[1] for status in steps.statuses] == ["0 unscored", *["1 unscored"] * 4]
    assert steps.statuses[-1] == "$0.35, 1 unscored"
