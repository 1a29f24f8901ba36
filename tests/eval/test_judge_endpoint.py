"""The endpoint judge through HTTP on loopback: what it reads, and which faults it survives."""

from __future__ import annotations

import gzip
import math
import time
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from icr.base.errors import UserError
from icr.base.progress import Silent
from tests.helpers.endpoints import (
    FIRST_WAIT,
    KEY,
    QUICK,
    always,
    first_then,
    item,
    item_of,
    judge,
    shares,
    verdict_of,
    verdicts_on,
)
from tests.helpers.judging import Steps
from tests.helpers.stub_server import Answer, Stub, completion, fault, prefers_good, says


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


# What is read.


def test_preference_is_the_labels_share_of_probability(tmp_path: Path) -> None:
    top = {"A": math.log(0.5), " A": math.log(0.1), "B": math.log(0.2), "The": math.log(0.2)}
    verdict, stub = verdict_of(always(says("A", top=top)), tmp_path)
    assert shares([verdict])[0] == pytest.approx(0.6 / 0.8)
    request = stub.sent[0][1]
    assert (request["model"], request["temperature"], request["logprobs"]) == ("m", 0.0, True)


def test_a_label_that_is_not_among_the_top_tokens_counts_as_impossible(tmp_path: Path) -> None:
    verdict, _ = verdict_of(always(says("B", top={"B": -0.01, "b": -5.0})), tmp_path)
    assert shares([verdict])[0] == 0.0


@pytest.mark.parametrize(
    ("text", "preference"),
    [("A", 1.0), (" B.\n", 0.0), ("**B**", 0.0), ("[[A]]", 1.0), ("Answer: A", 1.0), ("The better answer is B", 0.0)],
)
def test_without_log_probs_the_label_is_read_from_the_text(tmp_path: Path, text: str, preference: float) -> None:
    assert shares([verdict_of(always(says(text)), tmp_path)[0]]) == [preference]


@pytest.mark.parametrize(
    ("answer", "reason", "readings"),
    [
        (says("C"), "verdict outside the labels", 3),
        (says("A or B"), "verdict outside the labels", 3),
        (says("Both are fine. A tie."), "verdict outside the labels", 3),
        (says("A bad answer is B"), "verdict outside the labels", 3),
        (says("I'm sorry, but I can't help with that."), "verdict outside the labels", 3),
        (says("", top={"A": -1.0}), "empty answer", 3),
        (says(None), "empty answer", 3),
        (says(None, refusal="I won't."), "refused", 1),
        (
            completion([{"index": 0, "finish_reason": "content_filter", "message": {"content": "A"}}]),
            "stopped by the endpoint's content filter",
            1,
        ),
    ],
)
def test_what_is_no_verdict_is_read_again_then_unscored_and_was_paid_for_once(
    tmp_path: Path, answer: Answer, reason: str, readings: int
) -> None:
    with Stub(always(answer)) as stub:
        for _ in range(2):
            (verdict,) = verdicts_on(judge(tmp_path, stub.url), item())
            assert (verdict.shares, verdict.reason) == (None, reason)
        assert len(stub.sent) == readings
    temperatures = [request["temperature"] for _, request, _ in stub.sent]
    assert temperatures[0] == 0.0 and len(set(temperatures)) == readings


def test_a_later_reading_that_can_be_read_counts(tmp_path: Path) -> None:
    verdict, stub = verdict_of(lambda request, before: says("B" if before == 2 else "hm"), tmp_path)
    assert (verdict.shares, len(stub.sent)) == ((0.0, 1.0), 3)


def test_equal_answers_are_one_question_in_both_orders(tmp_path: Path) -> None:
    reported: list[int] = []
    with Stub(always(says("A"))) as stub:
        asked = judge(tmp_path, stub.url)
        verdicts = asked.ask([item(0, "same", "same"), item(0, "same", "same"), item(1)], reported.append)
    assert shares(verdicts) == [1.0] * 3
    assert (len(stub.sent), sum(reported)) == (2, 3)


# What is survived.


@pytest.mark.parametrize(
    "answer",
    [
        fault(500),
        fault(503),
        fault(429, headers={"retry-after": "0"}),
        Answer(b"{'not': json"),
        Answer(b'{"choices": "none"}'),
        Answer(b""),
        completion([]),
        Answer(says("A").body, cut=True),
    ],
    ids=["500", "503", "429", "not json", "wrong json", "nothing", "no choices", "closed half-way"],
)
def test_a_passing_fault_is_asked_again(tmp_path: Path, answer: Answer) -> None:
    verdict, stub = verdict_of(first_then(answer, answer, says("A")), tmp_path)
    assert (shares([verdict])[0], len(stub.sent)) == (1.0, 3)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (fault(500), "no answer: HTTP 500"),
        (Answer(b"{"), "no readable answer"),
        (completion([]), "no readable answer"),
    ],
)
def test_a_lasting_fault_ends_unscored_after_the_limit_and_is_not_kept(
    tmp_path: Path, answer: Answer, reason: str
) -> None:
    with Stub(always(answer)) as stub:
        asked = judge(tmp_path, stub.url)
        (verdict,) = verdicts_on(asked, item())
        assert (verdict.shares, verdict.reason) == (None, reason)
        assert len(stub.sent) == QUICK["attempts"]
        stub.script = always(says("A"))  # the next run asks again
        assert shares(verdicts_on(asked, item())) == [1.0]


def test_a_minutes_limit_without_retry_after_is_waited_out(tmp_path: Path) -> None:
    steps, opened = Steps(), time.monotonic() + 70 * FIRST_WAIT / 2

    def script(request: dict[str, Any], before: int) -> Answer:
        return says("A") if time.monotonic() > opened else fault(429)

    with Stub(script) as stub:
        asked = judge(tmp_path, stub.url, steps, attempts=1)
        assert shares(verdicts_on(asked, item())) == [1.0]
    assert [note for note in steps.notes if "judge.requests_per_minute" in note] == steps.notes[:1]


def test_a_limit_that_does_not_end_is_named_with_the_keys_that_keep_below_it(tmp_path: Path) -> None:
    with (
        Stub(always(fault(429, "slow down", headers={"Retry-After": "0"}))) as stub,
        pytest.raises(UserError, match="the endpoint's limit is reached: HTTP 429: slow down") as caught,
    ):
        verdicts_on(judge(tmp_path, stub.url, attempts=2), *(item(n) for n in range(40)))
    assert "judge.requests_per_minute" in caught.value.do


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_honoured(tmp_path: Path, as_date: bool) -> None:
    def script(request: dict[str, Any], before: int) -> Answer:
        # a date has whole seconds: two ahead is more than one
        value = formatdate(time.time() + 2, usegmt=True) if as_date else "1"
        return says("A") if before else fault(429, headers={"Retry-After": value})

    verdict, stub = verdict_of(script, tmp_path)
    assert shares([verdict])[0] == 1.0
    assert stub.sent[1][0] - stub.sent[0][0] >= 1.0


def test_an_endpoint_that_asks_for_an_hour_is_not_waited_for(tmp_path: Path) -> None:
    verdict, stub = verdict_of(always(fault(429, headers={"Retry-After": "3600"})), tmp_path)
    assert (verdict.reason, len(stub.sent)) == ("no answer: HTTP 429", 1)


def test_an_endpoint_that_hangs_is_given_up(tmp_path: Path) -> None:
    with Stub(lambda request, before: replace(says("A"), delay=9.0 if item_of(request) == "1" else 0)) as stub:
        asked = judge(tmp_path, stub.url, attempts=2, timeout=1.0)
        fine, hung = [verdicts_on(asked, item(n))[0] for n in (0, 1)]
    assert shares([fine, hung]) == [1.0, None]
    assert (hung.reason, len(stub.sent)) == ("no answer in time", 3)


def test_as_many_questions_as_allowed_are_on_their_way_at_once(tmp_path: Path) -> None:
    with Stub(always(replace(says("A"), delay=0.2))) as stub:
        verdicts = verdicts_on(judge(tmp_path, stub.url, concurrency=8), *(item(n) for n in range(24)))
    assert shares(verdicts) == [1.0] * 24
    assert stub.most_busy == 8


def test_a_parameter_that_the_endpoint_does_not_support_is_left_out_and_said(tmp_path: Path) -> None:
    def script(request: dict[str, Any], before: int) -> Answer:
        for name in ("logprobs", "max_tokens"):
            if name in request:
                return fault(400, f"Unsupported parameter: '{name}'", param=name)
        return prefers_good(request, before)

    notes: list[str] = []

    class Notes(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    verdict, stub = verdict_of(script, tmp_path, reporter=Notes())
    assert shares([verdict])[0] == 1.0
    assert not {"logprobs", "top_logprobs", "max_tokens"} & stub.sent[-1][1].keys()
    assert [n for n in notes if "logprobs" in n] and [n for n in notes if "max_tokens" in n]
    assert [n for n in notes if "read from its text" in n]


def test_a_question_that_the_endpoint_rejects_is_unscored_alone(tmp_path: Path) -> None:
    too_long = fault(400, "This model's maximum context length is 10 tokens.", param="messages")

    def script(request: dict[str, Any], before: int) -> Answer:
        return too_long if item_of(request) == "1" else says("A")

    with Stub(script) as stub:
        asked = judge(tmp_path, stub.url)
        verdicts = verdicts_on(asked, item(0), item(1), item(2))
    assert shares(verdicts) == [1.0, None, 1.0]
    assert verdicts[1].reason == "no answer: HTTP 400" and "maximum context" in verdicts[1].raw
    assert len(stub.sent) == 3  # no retry of what cannot succeed


def test_an_error_that_comes_packed_is_read(tmp_path: Path) -> None:
    packed = gzip.compress(fault(418, "I am a teapot").body)
    verdict, _ = verdict_of(always(Answer(packed, 418, {"content-encoding": "gzip"})), tmp_path)
    assert verdict.reason == "no answer: HTTP 418" and verdict.raw.endswith(" I am a teapot")


def test_an_endpoint_is_reached_through_the_proxy_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Stub(prefers_good) as stub:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{stub.port}")
        assert shares(verdicts_on(judge(tmp_path, "http://judge.invalid/v1"), item())) == [1.0]
        monkeypatch.setenv("no_proxy", "judge.invalid")
        with pytest.raises(UserError, match="does not answer"):
            verdicts_on(judge(tmp_path, "http://judge.invalid/v1", attempts=1), item(1))
    assert [headers["host"] for _, _, headers in stub.sent] == ["judge.invalid"]
