"""A refusal is known to the next command, for a week."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from icr.endpoint import remembered
from icr.endpoint.endpoint import Ask, Endpoint
from icr.endpoint.refusals import Dialect
from icr.endpoint.remembered import FILE, WEEK, Memory
from tests.endpoint.test_refusals import REFUSALS
from tests.helpers.endpoints import FIRST_WAIT, settings
from tests.helpers.judging import Steps
from tests.helpers.stub_server import Answer, Stub, says

ASKED = ("openai, max_tokens of a reasoning model", "openai, logprobs of a reasoning model")


@pytest.fixture(autouse=True)
def far_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the stub were on another machine."""
    monkeypatch.setattr(remembered, "is_remembered", lambda address: True)


def refuses(request: dict[str, Any], before: int) -> Answer:
    for name in ASKED:
        if REFUSALS[name].if_sent in request:
            return REFUSALS[name].answer
    return says("A")


def command(folder: Path, url: str, number: int, model: str = "m", user: Path | None = None) -> list[str]:
    """One question of its own, by a process that knows nothing of the others; what the user is told."""
    steps = Steps()
    user = folder / "user" if user is None else user
    endpoint = Endpoint(
        model, folder / f"{number}-{model}" / "c.sqlite", settings(url), steps,
        shared=user / "answers.sqlite", first_wait=FIRST_WAIT,
    )  # fmt: skip
    endpoint.ask([Ask((("user", f"Question {number}?"),), 8, label_logprobs=True)], lambda more: None)
    return steps.notes


def test_the_next_command_pays_nothing_to_learn_it_and_says_so(tmp_path: Path) -> None:
    with Stub(refuses) as stub:
        command(tmp_path, stub.url, 0)
        assert len(stub.sent) == 3
        notes = command(tmp_path, stub.url, 1)
        assert len(stub.sent) == 4
        (note,) = [note for note in notes if "refused" in note]
        assert "without logprobs, top_logprobs and with max_completion_tokens in place of max_tokens" in note
        command(tmp_path, stub.url, 2, model="other")  # another model may take it
        assert len(stub.sent) == 7
        command(tmp_path, stub.url.replace("127.0.0.1", "localhost"), 3)  # and another server
        assert len(stub.sent) == 10


def test_after_a_week_it_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Stub(refuses) as stub:
        command(tmp_path, stub.url, 0)
        now = remembered.time.time()
        monkeypatch.setattr(remembered.time, "time", lambda: now + WEEK - 60)
        command(tmp_path, stub.url, 1)
        assert len(stub.sent) == 4
        monkeypatch.setattr(remembered.time, "time", lambda: now + WEEK + 60)
        stub.script = lambda request, before: says("A")
        assert not [note for note in command(tmp_path, stub.url, 2) if "refused" in note]
        assert len(stub.sent) == 5 and "logprobs" in stub.sent[-1][1]


def test_a_server_on_this_machine_is_asked_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with Stub(refuses) as stub:
        for number in range(2):
            command(tmp_path, stub.url, number)
        assert len(stub.sent) == 6 and not (tmp_path / "user" / FILE).exists()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', '{"a": {"address": "x"}}'])
def test_a_damaged_file_is_as_good_as_none(text: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(text)
    memory = Memory(tmp_path, "https://example.org/v1", "m")
    assert memory.recall() == Dialect()
    memory.keep(Dialect(frozenset({"temperature"})))
    assert Memory(tmp_path, "https://example.org/v1", "m").recall() == Dialect(frozenset({"temperature"}))


def test_no_secret_is_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    with Stub(refuses) as stub:
        command(tmp_path, f"{stub.url}?api_key=verysecret&api-version=1", 0)
    text = (tmp_path / "user" / FILE).read_text()
    assert "secret" not in text and json.loads(text)


def test_a_folder_that_cannot_be_written_costs_only_the_request(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with Stub(refuses) as stub:
        command(tmp_path, stub.url, 0, user=tmp_path / "file")
        command(tmp_path, stub.url, 1, user=tmp_path / "file")
        assert len(stub.sent) == 6
