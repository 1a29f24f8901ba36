"""The endpoint judge through HTTP on loopback: what it reads, what it survives, what it never asks twice."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from eval.answers import load_baseline, read_answers
from eval.cache import Cache
from eval.endpoint import EndpointJudge, Patience
from eval.judge import Comparison, Judge, Verdict, open_judge, run_verdicts
from eval.summary import summarise
from icr.config import Judge as JudgeConfig
from icr.errors import UserError
from icr.files import read_rows, write_rows
from icr.progress import EventFile, Silent
from icr.rundir import RESPONSES
from tests.stub_server import Answer, Script, Stub, completion, fault, says

QUICK = Patience(attempts=4, first_wait=0.01, timeout=2.0)
KEY = "sk-very-secret-0123456789"
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def item(number: int = 0, first: str = "good", second: str = "bad") -> Comparison:
    return Comparison(str(number), "en", f"Question {number}?", first, second)


def prefers_good(request: dict[str, Any], before: int) -> Answer:
    question = request["messages"][-1]["content"]
    return says("A" if question.index("\ngood") < question.index("\nbad") else "B")


def compare(judge: Judge, *items: Comparison) -> list[Verdict]:
    return judge.compare(items, lambda more: None)


def verdict_of(script: Script, folder: Path, **options: Any) -> tuple[Verdict, Stub]:
    """The stub's script as seen by a judge that is asked one question."""
    with Stub(script) as stub:
        judge = EndpointJudge("m", folder / "c.sqlite", base_url=stub.url, patience=QUICK, **options)
        return compare(judge, item())[0], stub


def always(answer: Answer) -> Script:
    return lambda request, before: answer


def first_then(*answers: Answer) -> Script:
    """These answers in order; the last one from then on."""
    return lambda request, before: answers[min(before, len(answers) - 1)]


# What is read.


def test_preference_is_the_labels_share_of_probability(tmp_path: Path) -> None:
    import math

    top = {"A": math.log(0.5), " A": math.log(0.1), "B": math.log(0.2), "The": math.log(0.2)}
    verdict, stub = verdict_of(always(says("A", top=top)), tmp_path)
    assert verdict.preference_of_first == pytest.approx(0.6 / 0.8)
    request = stub.sent[0][1]
    assert (request["model"], request["temperature"], request["logprobs"]) == ("m", 0.0, True)


def test_a_label_that_is_not_among_the_top_tokens_counts_as_impossible(tmp_path: Path) -> None:
    verdict, _ = verdict_of(always(says("B", top={"B": -0.01, "b": -5.0})), tmp_path)
    assert verdict.preference_of_first == 0.0


@pytest.mark.parametrize(
    ("text", "preference"),
    [("A", 1.0), (" B.\n", 0.0), ("**B**", 0.0), ("[[A]]", 1.0), ("Answer: A", 1.0), ("The better answer is B", 0.0)],
)
def test_without_log_probs_the_label_is_read_from_the_text(tmp_path: Path, text: str, preference: float) -> None:
    assert verdict_of(always(says(text)), tmp_path)[0].preference_of_first == preference


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (says("C"), "verdict outside the labels"),
        (says("A or B"), "verdict outside the labels"),
        (says("Both are fine. A tie."), "verdict outside the labels"),
        (says("A bad answer is B"), "verdict outside the labels"),
        (says("I'm sorry, but I can't help with that."), "verdict outside the labels"),
        (says(None, refusal="I won't."), "refused"),
        (says("", top={"A": -1.0}), "empty answer"),
        (says(None), "empty answer"),
        (
            completion([{"index": 0, "finish_reason": "content_filter", "message": {"content": "A"}}]),
            "stopped by the endpoint's content filter",
        ),
    ],
)
def test_what_is_no_verdict_is_unscored_and_was_paid_for_once(tmp_path: Path, answer: Answer, reason: str) -> None:
    with Stub(always(answer)) as stub:
        for _ in range(2):
            judge = EndpointJudge("m", tmp_path / "c.sqlite", base_url=stub.url, patience=QUICK)
            (verdict,) = compare(judge, item())
            assert (verdict.preference_of_first, verdict.reason) == (None, reason)
        assert len(stub.sent) == 1


def test_equal_answers_are_one_question_in_both_orders(tmp_path: Path) -> None:
    told: list[int] = []
    with Stub(always(says("A"))) as stub:
        judge = EndpointJudge("m", tmp_path / "c.sqlite", base_url=stub.url, patience=QUICK)
        verdicts = judge.compare([item(0, "same", "same"), item(0, "same", "same"), item(1)], told.append)
    assert [v.preference_of_first for v in verdicts] == [1.0] * 3
    assert (len(stub.sent), sum(told)) == (2, 3)


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
    assert (verdict.preference_of_first, len(stub.sent)) == (1.0, 3)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (fault(500), "no answer: HTTP 500"),
        (fault(429), "no answer: HTTP 429"),
        (Answer(b"{"), "no readable answer"),
        (completion([]), "no readable answer"),
    ],
)
def test_a_lasting_fault_ends_unscored_after_the_limit_and_is_not_kept(
    tmp_path: Path, answer: Answer, reason: str
) -> None:
    with Stub(always(answer)) as stub:
        judge = EndpointJudge("m", tmp_path / "c.sqlite", base_url=stub.url, patience=QUICK)
        (verdict,) = compare(judge, item())
        assert (verdict.preference_of_first, verdict.reason) == (None, reason)
        assert len(stub.sent) == QUICK.attempts
        stub.script = always(says("A"))  # the next run asks again
        assert compare(judge, item())[0].preference_of_first == 1.0


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_honoured(tmp_path: Path, as_date: bool) -> None:
    def script(request: dict[str, Any], before: int) -> Answer:
        # a date has whole seconds: two ahead is more than one
        value = formatdate(time.time() + 2, usegmt=True) if as_date else "1"
        return says("A") if before else fault(429, headers={"Retry-After": value})

    verdict, stub = verdict_of(script, tmp_path)
    assert verdict.preference_of_first == 1.0
    assert stub.sent[1][0] - stub.sent[0][0] >= 1.0


def test_an_endpoint_that_asks_for_an_hour_is_not_waited_for(tmp_path: Path) -> None:
    verdict, stub = verdict_of(always(fault(429, headers={"Retry-After": "3600"})), tmp_path)
    assert (verdict.reason, len(stub.sent)) == ("no answer: HTTP 429", 1)


def test_an_endpoint_that_hangs_is_given_up(tmp_path: Path) -> None:
    patience = Patience(attempts=2, first_wait=0.01, timeout=0.3)
    with Stub(lambda request, before: Answer(says("A").body, delay=1.0 if item_of(request) == "1" else 0)) as stub:
        judge = EndpointJudge("m", tmp_path / "c.sqlite", base_url=stub.url, patience=patience)
        fine, hung = [compare(judge, item(n))[0] for n in (0, 1)]
    assert fine.preference_of_first == 1.0
    assert (hung.preference_of_first, hung.reason) == (None, "no answer in time")


def item_of(request: dict[str, Any]) -> str:
    found = re.search(r"Question (\d+)\?", request["messages"][-1]["content"])
    assert found
    return found[1]


def test_every_pair_ends_scored_or_unscored_when_a_fifth_of_the_answers_are_faults(tmp_path: Path) -> None:
    faults = [
        fault(500), fault(429, headers={"retry-after": "0"}), Answer(b"{"), completion([]), says("C"),
        says(None, refusal="no"), Answer(says("A").body, cut=True),
    ]  # fmt: skip

    def script(request: dict[str, Any], before: int) -> Answer:
        number = int(item_of(request)) + before
        answer = faults[number // 5 % len(faults)] if number % 5 == 0 else prefers_good(request, before)
        return replace(answer, delay=0.02)

    with Stub(script) as stub:
        judge = EndpointJudge("m", tmp_path / "c.sqlite", base_url=stub.url, patience=QUICK, concurrency=8)
        verdicts = compare(judge, *(item(n, *order) for n in range(100) for order in GOOD_BAD))
    scored = [v for v in verdicts if v.preference_of_first is not None]
    assert len(verdicts) == 200
    assert all((v.preference_of_first is None) == bool(v.reason) for v in verdicts)
    # the order of the verdicts is the order of the questions, whatever came back when
    expected = [1.0, 0.0] * 100
    assert all(v.preference_of_first in (None, e) for v, e in zip(verdicts, expected, strict=True))
    assert len(scored) == 200 - 2 * sum(n // 5 % 7 in (4, 5) for n in range(0, 100, 5))
    assert stub.most_busy == 8


GOOD_BAD = (("good", "bad"), ("bad", "good"))


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
    assert verdict.preference_of_first == 1.0
    assert not {"logprobs", "top_logprobs", "max_tokens"} & stub.sent[-1][1].keys()
    assert [n for n in notes if "logprobs" in n] and [n for n in notes if "max_tokens" in n]
    assert [n for n in notes if "read from its text" in n]


def test_a_question_that_the_endpoint_rejects_is_unscored_alone(tmp_path: Path) -> None:
    too_long = fault(400, "This model's maximum context length is 10 tokens.", param="messages")

    def script(request: dict[str, Any], before: int) -> Answer:
        return too_long if item_of(request) == "1" else says("A")

    with Stub(script) as stub:
        judge = EndpointJudge("m", tmp_path / "c.sqlite", base_url=stub.url, patience=QUICK)
        verdicts = compare(judge, item(0), item(1), item(2))
    assert [v.preference_of_first for v in verdicts] == [1.0, None, 1.0]
    assert verdicts[1].reason == "no answer: HTTP 400" and "maximum context" in verdicts[1].raw
    assert len(stub.sent) == 3  # no retry of what cannot succeed


# What stops at once.


@pytest.mark.parametrize(
    ("answer", "says_what"),
    [
        (fault(401, f"Incorrect API key provided: {KEY}."), "refuses the key"),
        (fault(403, "not yours"), "refuses the key"),
        (fault(404, "The model `m` does not exist"), "does not know the model m"),
        (fault(429, "You exceeded your current quota", code="insufficient_quota"), "used up"),
    ],
)
def test_what_no_retry_can_mend_stops_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer, says_what: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Stub(always(answer)) as stub:
        judge = EndpointJudge("m", tmp_path / "c.sqlite", base_url=stub.url, concurrency=2, patience=QUICK)
        with pytest.raises(UserError, match=says_what) as caught:
            compare(judge, *(item(n) for n in range(50)))
        assert caught.value.do and KEY not in str(caught.value)
        assert len(stub.sent) <= 4


def test_an_endpoint_that_cannot_be_reached_stops_and_one_that_goes_down_too(tmp_path: Path) -> None:
    with Stub(prefers_good) as stub:
        url = stub.url
    judge = EndpointJudge("m", tmp_path / "c.sqlite", base_url=url, patience=QUICK)
    with pytest.raises(UserError, match="does not answer"):
        compare(judge, item())
    with Stub(lambda request, before: says("A") if int(item_of(request)) < 10 else fault(502)) as stub:
        judge = EndpointJudge("m", tmp_path / "d.sqlite", base_url=stub.url, concurrency=1, patience=QUICK)
        with pytest.raises(UserError, match=r"does not answer: HTTP 502"):
            compare(judge, *(item(n) for n in range(100)))
        assert len(stub.asked) == 30  # 10 answered, then 20 failures in a row
        stub.script = prefers_good
        verdicts = compare(judge, *(item(n) for n in range(100)))
        assert [v.preference_of_first for v in verdicts] == [1.0] * 100
        assert [stub.asked[q] for q in list(stub.asked)[:10]] == [1] * 10  # nothing that was judged is lost


def test_an_endpoint_that_fails_often_but_answers_between_is_not_taken_to_be_down(tmp_path: Path) -> None:
    def script(request: dict[str, Any], before: int) -> Answer:
        return fault(502) if int(item_of(request)) % 2 else says("A")

    with Stub(script) as stub:
        judge = EndpointJudge(
            "m", tmp_path / "c.sqlite", base_url=stub.url, concurrency=1, patience=Patience(attempts=1)
        )
        verdicts = compare(judge, *(item(n) for n in range(60)))
    assert [v.preference_of_first for v in verdicts] == [1.0, None] * 30


@pytest.mark.parametrize("base_url", [None, "http://judge.example.org/v1"])
def test_a_missing_key_is_named_before_anything_is_sent(tmp_path: Path, base_url: str | None) -> None:
    config = JudgeConfig(kind="openai", model="m", base_url=base_url)
    with pytest.raises(UserError, match="no key") as caught:
        open_judge(config, tmp_path / "c.sqlite", Silent())
    assert "OPENAI_API_KEY" in caught.value.do


@pytest.mark.parametrize("base_url", ["localhost:8000/v1", "/v1", "ftp://localhost/v1"])
def test_a_base_url_that_is_none_is_refused(tmp_path: Path, base_url: str) -> None:
    with pytest.raises(UserError, match="no web address"):
        EndpointJudge("m", tmp_path / "c.sqlite", base_url=base_url)


def test_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no judge model"):
        open_judge(JudgeConfig(kind="openai"), tmp_path / "c.sqlite", Silent())


# Whole runs: the cache, the key, kill -9.


def make_round(folder: Path, prompts: int, policy: Callable[[int], str] = lambda n: "good") -> tuple[Path, Path]:
    """Answers of a policy and of a baseline to the same prompts, as parquet folders."""
    for name, text in (("policy", policy), ("baseline", lambda n: "bad")):
        rows = [
            {"prompt_id": str(n), "lang": "en", "sample": 0, "prompt": f"Question {n}?", "response": text(n),
             "token_ids": [1], "finish_reason": "stop"}
            for n in range(prompts)
        ]  # fmt: skip
        write_rows(folder / name / "en.parquet", rows, RESPONSES)
    return folder / "policy", folder / "baseline"


RUN = """
import sys
from pathlib import Path
from eval.answers import load_baseline, read_answers
from eval.judge import open_judge, run_verdicts
from icr.config import Judge
from icr.progress import Silent
url, answers, baseline, out = sys.argv[1], *map(Path, sys.argv[2:])
judge = open_judge(Judge(kind="openai", model="m", base_url=url, concurrency=4), out / "cache.sqlite", Silent())
run_verdicts(judge, answers, load_baseline(baseline, read_answers(answers)), out, Silent())
"""


def test_killed_with_sigkill_no_answered_question_is_asked_again(tmp_path: Path) -> None:
    answers, baseline = make_round(tmp_path, 150)
    out = tmp_path / "judge"

    def script(request: dict[str, Any], before: int) -> Answer:
        return replace(prefers_good(request, before), delay=0.02)

    with Stub(script) as stub:
        for kill_at in (40, 270):  # within the first piece of 256, and within the second
            arguments = [stub.url, str(answers), str(baseline), str(out)]
            process = subprocess.Popen([sys.executable, "-c", RUN, *arguments], cwd=ROOT)
            while stub.answered < kill_at and process.poll() is None:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            assert not (out / "verdicts" / "en.parquet").exists()
        kept, asked = len(Cache(out / "cache.sqlite")), sum(stub.asked.values())
        assert stub.answered - 2 * 4 <= kept <= stub.answered  # answers on their way at a kill: 4 at most
        for more in (300 - kept, 0):  # what is missing; then, of a finished language, nothing
            judge = EndpointJudge("m", out / "cache.sqlite", base_url=stub.url, patience=QUICK)
            run_verdicts(judge, answers, load_baseline(baseline, read_answers(answers)), out, Silent())
            assert sum(stub.asked.values()) - asked == more
            asked += more
    assert [r["preference"] for r in read_rows(out / "verdicts" / "en.parquet")] == [1.0] * 300
    assert not (out / "verdicts" / "pieces").exists()


def test_the_key_is_sent_and_is_in_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\n")
    answers, baseline = make_round(tmp_path, 6)
    out, events = tmp_path / "judge", EventFile(tmp_path / "events.jsonl")

    def script(request: dict[str, Any], before: int) -> Answer:
        echo = {"0": fault(500, f"key {KEY}"), "1": fault(400, f"key {KEY}"), "2": says("C")}
        return echo.get(item_of(request), says("A"))

    with Stub(script) as stub:
        judge = EndpointJudge("m", out / "cache.sqlite", base_url=stub.url, patience=QUICK, reporter=events)
        run_verdicts(judge, answers, load_baseline(baseline, read_answers(answers)), out, events)
        assert {headers["authorization"] for _, _, headers in stub.sent} == {f"Bearer {KEY}"}
    rows = read_rows(out / "verdicts" / "en.parquet")
    assert any("key ***" in row["raw"] for row in rows)
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) >= 4 and not [p for p in files if KEY.encode() in p.read_bytes()]


def test_verdicts_and_summary_through_http(tmp_path: Path) -> None:
    answers, baseline = make_round(tmp_path, 12, policy=lambda n: "good" if n else "bad, not good")
    out = tmp_path / "judge"
    replies = {"0": says("neither"), "1": says("B"), "2": fault(500)}  # unscored, always the second, lost

    def script(request: dict[str, Any], before: int) -> Answer:
        return replies.get(item_of(request)) or prefers_good(request, before)

    with Stub(script) as stub:
        judge = EndpointJudge("m", out / "cache.sqlite", base_url=stub.url, patience=QUICK)
        joined = load_baseline(baseline, read_answers(answers))
        run_verdicts(judge, answers, joined, out, Silent())
    row = summarise(answers, joined, out, judge.name, "round-0")["languages"]["en"]
    assert (row["n"], row["unscored"], row["unscored_verdicts"]) == (10, 2, 4)
    assert row["reasons"] == {"verdict outside the labels": 2, "no answer: HTTP 500": 2}
    assert row["win_rate"] == pytest.approx(95.0)  # nine wins and one half
    assert row["position_bias"] == pytest.approx(0.1)
