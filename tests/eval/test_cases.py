"""An endpoint with one odd habit each, after public reports (../shared/cases/16-judge-endpoints): how a judge ends."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from eval.judges.question import Verdict
from icr.base.errors import UserError
from tests.helpers.endpoints import item, judge, verdicts_on
from tests.helpers.judging import Steps

STUB = Path(__file__).resolve().parents[3] / "shared" / "cases" / "lib" / "stub.py"
pytestmark = pytest.mark.skipif(not STUB.is_file(), reason="needs ../shared/cases/lib/stub.py")


class End(NamedTuple):
    """Of a judge that is asked three questions."""

    share: float | None = 1.0
    """Of label A; None: unscored."""
    reason: str | None = None
    requests: int = 3
    note: str = ""
    """A part of the message that the user reads."""
    raw: str = ""
    """What is kept of the answer, in part."""
    again: int = 0
    """Requests of the same command once more: for what has no answer."""


TEXT = "returns no label probabilities: verdicts are read from its text"
SKIPPED = "does not support logprobs: requests are sent without it"
THOUGHT = "all tokens went into reasoning"
OUTSIDE = "verdict outside the labels"
FAILED = "no readable answer"
ENDS = {
    "a": End(note=TEXT),
    # transient errors that come with status 200: asked again, never kept
    "error200": End(None, FAILED, 6, raw="Rate limit exceeded", again=6),
    "error200once": End(requests=6, note=TEXT),  # every other request
    "errorchoice": End(None, FAILED, 6, raw="upstream idle timeout", again=6),
    # reasoning that takes the room; each is asked three times
    "nullcontent": End(None, THOUGHT, 9, raw="Let me compare"),
    "think": End(0.0, note=TEXT),
    "thinkcut": End(None, THOUGHT, 9, raw="Okay, so I need to compare"),
    # labels in wrappings
    "outputb": End(0.0, note=TEXT),
    "modelb": End(0.0, note=TEXT),
    "bsentence": End(0.0, note=TEXT),
    "boldb": End(0.0, note=TEXT),
    "jsonb": End(0.0, note=TEXT),
    "latexb": End(0.0, note=TEXT),
    "cyrillic": End(None, OUTSIDE, 9, raw="В"),
    "fullwidth": End(0.0, note=TEXT),
    # odd forms of content, log-probs, usage
    "listcontent": End(note=TEXT),
    "neginf": End(),
    "nulllogprob": End(),
    "nulltop": End(note=TEXT),
    "legacylogprobs": End(note=TEXT),
    "togetherlist": End(note=TEXT),
    "nullusage": End(note="does not count tokens"),
    "surrogate": End(note=TEXT),
    # no chat completions at all
    "html": End(None, FAILED, 6, again=6),
    "stream": End(None, FAILED, 6, again=6),
    "dropsome": End(requests=4),
    # refused parameters: the first request tells
    "o1": End(requests=6, note="takes max_completion_tokens in place of max_tokens"),
    "notenabled": End(requests=4, note=SKIPPED),
    "mistral422": End(requests=4, note=SKIPPED),
    "topk": End(requests=4, note="does not support top_logprobs"),
    "pydantic422": End(requests=4, note=SKIPPED),
    "context400": End(None, "no answer: HTTP 400", 3, raw="maximum context length", again=3),
}
DOWN = ("drop", "half")
"""No question of these is ever answered."""


@contextmanager
def provider(mode: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """The address of an endpoint with this habit, and its log with a line a request."""
    port, log = folder / "port", folder / "log"
    log.touch()
    with subprocess.Popen([sys.executable, str(STUB), str(port), mode, str(log)]) as process:
        try:
            while not (port.is_file() and port.read_text()):
                assert process.poll() is None
                time.sleep(0.02)
            yield f"http://127.0.0.1:{port.read_text()}/v1", log
        finally:
            process.kill()


def ask(folder: Path, url: str, steps: Steps) -> list[Verdict]:
    return verdicts_on(judge(folder, url, steps, attempts=2, concurrency=1), *(item(n) for n in range(3)))


@pytest.mark.parametrize("mode", ENDS)
def test_a_habit_ends_as_it_should_and_what_was_kept_can_be_read_again(mode: str, tmp_path: Path) -> None:
    end, steps = ENDS[mode], Steps()
    with provider(mode, tmp_path) as (url, log):
        verdicts = ask(tmp_path, url, steps)
        assert len(log.read_text().splitlines()) == end.requests
        again = ask(tmp_path, url, Steps())
        assert len(log.read_text().splitlines()) == end.requests + end.again
    assert again == verdicts
    for verdict in verdicts:
        share = None if verdict.shares is None else round(verdict.shares[0], 6)
        assert (share, verdict.reason) == (end.share, end.reason) and end.raw in verdict.raw
        json.dumps(verdict.raw).encode("utf-8")
    assert any(end.note in note for note in steps.notes) or not end.note


@pytest.mark.parametrize("mode", DOWN)
def test_an_endpoint_that_never_answers_ends_the_command(mode: str, tmp_path: Path) -> None:
    with (
        provider(mode, tmp_path) as (url, log),
        pytest.raises(UserError, match="the endpoint does not answer") as caught,
    ):
        ask(tmp_path, url, Steps())
    assert len(log.read_text().splitlines()) == 2 and "can be reached" in caught.value.do
