"""Reading a judge's reply: verdicts in every wrapping, odd replies, and none that costs time or a traceback."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval.judges.labels import find_grade, find_label, find_marked, strip_thinking
from eval.judges.prompts import built_in
from eval.judges.question import Question, Verdict
from eval.judges.reading import read_reply
from eval.mtbench.grade import points_of
from icr.base.errors import UserError
from icr.endpoint.cache import Cache
from icr.endpoint.reply import read_completion
from tests.helpers.endpoints import always, item, judge, shares, verdict_of, verdicts_on
from tests.helpers.stub_server import Answer, Stub, says

AB = ("A", "B")


@pytest.mark.parametrize(
    ("text", "label"),
    [
        *((text, "A") for text in ("A", "a", " A.\n", "**A**", "[[A]]", "Answer: A", "Output A", "Output (a)")),
        *(
            (text, "A")
            for text in ("Antwort A", "Respuesta A", "Réponse A", "Ответ: A", "คำตอบ A", "答案：A", "Jibu: A")
        ),
        *((text, "A") for text in ("Answer 1.", "1", "<answer>A</answer>", r"\boxed{A}", r"\boxed{\text{A}}", "Ａ")),
        *((text, "B") for text in ("The better answer is **B**.", "Model B", '{"verdict": "B"}', "`B`", "Option 2")),
        *(
            (text, "B")
            for text in ("B is better because it answers.", "B\n\nThe second one answers.", "Both help.\n\nB")
        ),
        *(
            (text, "B")
            for text in ("A is long, but [[B]]", r"So A loses: $\boxed{B}$, clearly", "A?\n<answer>B</answer>")
        ),
        *(
            (text, None)
            for text in ("C", "A or B", "Both are fine. A tie.", "A bad answer is B", "I cannot help.", "3")
        ),
        *((text, None) for text in ("", "!", "Answer", "A\nB", "В", "A better one would be longer", "[[C]]", "11")),
    ],
)
def test_a_label_is_read_in_its_wrappings_and_in_nothing_else(text: str, label: str | None) -> None:
    assert find_label(text, AB) == label


def test_the_last_line_of_a_cut_answer_may_be_the_beginning_of_a_sentence() -> None:
    assert find_label("Let me compare.\nA", AB) == "A"
    assert find_label("Let me compare.\nA", AB, cut=True) is None


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("… [[answer1]]", "answer1"),
        ("… [[Answer2]]", "answer2"),
        ("… [[TIE]]", "tie"),
        ("… [[Answer 1]]", "answer1"),
        ("… [[2]]", "answer2"),
        ("[[answer1]] at first, then [[answer2]]", "answer2"),
        ("… [[neither]]", None),
    ],
)
def test_reward_accuracy_ignores_case_and_blanks(text: str, label: str | None) -> None:
    assert find_marked(text, built_in()["accuracy"].labels) == label


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("[[7]]", 7.0),
        ("Rating: [[7.5]]", 7.5),
        ("**[[8.0]]**", 8.0),
        ("[8]", 8.0),
        ("[[8/10]]", 8.0),
        ("[[Rating: 9]]", 9.0),
        ("[[7,5]]", 7.5),
        (r"\boxed{6}", 6.0),
        ("[1] is a source. [[3]]", 3.0),
        ("[[0]]", None),
        ("[[11]]", None),
        ("8", None),
        ("[[good]]", None),
    ],
)
def test_grades_are_read_as_fastchat_reads_them(text: str, grade: float | None) -> None:
    assert find_grade(text, 1, 10) == grade
    question = Question("q", "?", built_in()["mtbench"].labels, (), explained=True, graded=True)
    verdict = read_reply(read_completion(says(text or " ").body), question)
    assert verdict.expect(points_of(built_in()["mtbench"])) == (pytest.approx(grade) if grade is not None else None)
    assert grade is None or (verdict.shares is not None and sum(verdict.shares) == pytest.approx(1))


def test_thoughts_are_not_read() -> None:
    assert strip_thinking("<think>\nA is longer.\n</think>\n\nB") == ("B", True)
    assert strip_thinking("A is longer.</think>B") == ("B", True)
    assert strip_thinking("<think>\nOkay, so I need") == ("", True)
    assert strip_thinking("B") == ("B", False)


@pytest.mark.parametrize(
    "text", ["!" * 8000, "[" * 8000, "<answer>" * 1000, "A " * 4000, "\\boxed{" * 1000, "\n" * 8000]
)
def test_long_nonsense_is_read_at_once(text: str) -> None:
    started = time.perf_counter()
    assert find_label(text, AB) is None and find_grade(text, 1, 10) is None
    assert strip_thinking(text)
    assert time.perf_counter() - started < 0.5  # it took five seconds


# Log-probs.


def top(*tokens: tuple[str, list[tuple[str, float | None]] | None]) -> dict[str, Any]:
    return {
        "content": [
            {
                "token": token,
                "logprob": -0.1,
                "top_logprobs": others and [{"token": t, "logprob": p} for t, p in others],
            }
            for token, others in tokens
        ]
    }


def reply(text: object, logprobs: object = None, finish: str = "stop", **message: object) -> Answer:
    choice = {"index": 0, "finish_reason": finish, "logprobs": logprobs, "message": {"content": text, **message}}
    return Answer(json.dumps({"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 1}}).encode())


def read(answer: Answer) -> Verdict:
    return read_reply(read_completion(answer.body), item())


HALF = [("A", math.log(0.5)), ("B", math.log(0.5))]


@pytest.mark.parametrize("text", ["A", "A is what I would choose, as", "A. Both are fine, but a tie is no option"])
def test_log_probs_of_the_first_token_count_whatever_follows(text: str) -> None:
    assert shares([read(reply(text, top(("A", HALF), (".", None)), finish="length"))])[0] == pytest.approx(0.5)


def test_marks_before_the_first_letter_are_no_tokens_of_it() -> None:
    assert shares([read(reply("**A**", top(("**", [("**", 0.0)]), ("A", HALF))))])[0] == pytest.approx(0.5)


def test_log_probs_of_reasoning_are_not_the_verdicts() -> None:
    logprobs = top(("A", [("A", 0.0)]), ("</think>", None), ("B", HALF))
    assert shares([read(reply("A</think>B", logprobs))])[0] == pytest.approx(0.5)
    assert shares([read(reply("B", logprobs, reasoning_content="A"))])[0] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("logprobs", "share"),
    [
        (top(("A", [("A", 0.0), ("B", float("-inf"))])), 1.0),
        (top(("A", [("A", 0.0), ("B", None)])), 1.0),
        (top(("A", [("A", 0.0), ("B", float("nan"))])), 1.0),
        (top(("A", [("A", None), ("B", None)])), 1.0),
        (top(("A", [("A", float("-inf")), ("B", float("-inf"))])), 1.0),
        (top(("A", None)), 1.0),
        ({"content": None}, 1.0),
        ({"content": []}, 1.0),
        ([], 1.0),
        ("none", 1.0),
        ({"tokens": ["A"], "token_logprobs": [-0.1], "top_logprobs": [{"A": -0.1}]}, 1.0),
        ({"content": [{"token": 3}]}, 1.0),
    ],
)
def test_log_probs_that_are_odd_leave_the_text(tmp_path: Path, logprobs: object, share: float) -> None:
    with Stub(always(reply("A", logprobs))) as stub:
        for _ in range(2):  # the second time from the cache
            assert shares(verdicts_on(judge(tmp_path, stub.url), item())) == [share]
        assert len(stub.sent) == 1


# Odd replies.


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices":[{"message":{"content":"A \\ud83d"}}]}',
        b'{"choices":[{"message":{"content":"A\xff"}}]}',
        b'{"choices":[{"message":{"content":"A\\u0000"}}]}',
        b'{"choices":[{"message":{"content":[{"type":"thinking","thinking":"B"},{"type":"text","text":"A"}]}}]}',
        b'{"choices":[{"message":{"content":["A"]}}]}',
        b'{"choices":[{"message":{"content":"A"}}],"usage":null}',
        b'{"choices":[{"message":{"content":"A"}}],"usage":"many"}',
        b'{"choices":[{"message":{"content":"A"}}],"usage":[1]}',
        b'{"choices":[{"message":{"content":"A"}}],"usage":{"prompt_tokens":"7","completion_tokens":"1"}}',
        b'{"choices":[{"message":{"content":"A"}}],"usage":{"prompt_tokens":-7,"completion_tokens":1e999}}',
        b'{"choices":[{"message":{"content":"A"}}],"usage":{"prompt_tokens":true,"completion_tokens":{}}}',
        b'{"choices":[{"message":{"content":"A"}}],"usage":{"prompt_tokens":7,"prompt_tokens_details":[]}}',
        b'{"choices":[{"message":{"content":"A","refusal":{}},"finish_reason":7}]}',
        b'\xef\xbb\xbf{"choices":[{"message":{"content":"A"}}]}',
    ],
)
def test_an_odd_reply_is_read_and_can_be_read_again(tmp_path: Path, body: bytes) -> None:
    with Stub(always(Answer(body))) as stub:
        for _ in range(2):
            asked = judge(tmp_path, stub.url)
            assert shares(verdicts_on(asked, item())) == [1.0]
            assert 0 < asked.endpoint.cost_of().prompt_tokens < 1000
        assert len(stub.sent) == 1


@pytest.mark.parametrize("body", [b"null", b"3", b'"A"', b"[]", b"", b"[" * 100_000, b"<html>502</html>", b"\x00"])
def test_what_is_no_completion_is_unscored_with_the_reason(tmp_path: Path, body: bytes) -> None:
    verdict, stub = verdict_of(always(Answer(body)), tmp_path, attempts=2)
    assert (verdict.reason, len(stub.sent)) == ("no readable answer", 2)
    assert len(Cache(tmp_path / "c.sqlite")) == 0


def test_a_failure_that_comes_as_an_answer_is_asked_again_and_never_kept(tmp_path: Path) -> None:
    overloaded = Answer(json.dumps({"error": {"message": "overloaded", "code": 502}}).encode())
    idle = reply("", finish="error")
    for number, failed in enumerate((overloaded, idle)):
        with Stub(lambda request, before, failed=failed: says("A") if before == 1 else failed) as stub:  # type: ignore[misc]
            asked = judge(tmp_path, stub.url, name=f"c{number}")
            assert shares(verdicts_on(asked, item())) == [1.0]
            assert len(stub.sent) == 2
    verdict, _ = verdict_of(always(overloaded), tmp_path, attempts=1, name="d")
    assert "overloaded" in verdict.raw


def test_an_answer_in_the_cache_that_cannot_be_read_is_requested_again(tmp_path: Path) -> None:
    with Stub(always(says("A"))) as stub:
        verdicts_on(judge(tmp_path, stub.url), item())
        cache = Cache(tmp_path / "c.sqlite")
        cache._db.execute('UPDATE answers SET answer = \'{"choices": [{"mess\'')
        assert shares(verdicts_on(judge(tmp_path, stub.url), item())) == [1.0]
        assert len(stub.sent) == 2


# Reasoning judges.


def test_a_judge_that_only_reasons_is_stopped_after_twenty_answers_with_what_to_do(tmp_path: Path) -> None:
    thinking = reply(None, finish="length", reasoning_content="Let me compare the two answers")
    with Stub(always(thinking)) as stub:
        with pytest.raises(UserError, match="have no verdict") as caught:
            verdicts_on(judge(tmp_path, stub.url, concurrency=4), *(item(n) for n in range(100)))
        assert 20 <= len(stub.sent) <= 28  # and those on their way
        assert "judge.verdict_tokens" in caught.value.do and "all tokens went into reasoning 20" in str(caught.value)
        stub.script = always(reply("<think>They differ.</think>\nA"))
        verdicts = verdicts_on(judge(tmp_path, stub.url, verdict_tokens=2000), *(item(n) for n in range(100)))
        assert shares(verdicts) == [1.0] * 100
        assert stub.sent[-1][1]["max_tokens"] == 2000


def test_a_judge_that_has_given_verdicts_is_not_stopped_by_twenty_that_it_does_not_give(tmp_path: Path) -> None:
    with Stub(lambda request, before: says("A" if len(stub.sent) == 1 else "hm")) as stub:
        verdicts = verdicts_on(judge(tmp_path, stub.url), *(item(n) for n in range(30)))
    assert shares(verdicts) == [1.0, *[None] * 29]


def test_the_keys_of_a_reasoning_judge_are_sent_and_decide_what_is_asked_again(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "reasoning_effort": "low",
        "extra_body": {"chat_template_kwargs": {"enable_thinking": False}},
        "system": "Judge.",
        "verdict_temperature": 1.0,
    }
    with Stub(always(says("A"))) as stub:
        verdicts_on(judge(tmp_path, stub.url), item())
        for _ in range(2):
            verdicts_on(judge(tmp_path, stub.url, **options), item())
        assert len(stub.sent) == 2
        request = stub.sent[1][1]
    assert (request["reasoning_effort"], request["temperature"], request["max_tokens"]) == ("low", 1.0, 4096)
    assert request["chat_template_kwargs"] == {"enable_thinking": False}
    assert request["messages"][0] == {"role": "system", "content": "Judge."}


def test_an_unreadable_answer_at_a_set_temperature_is_asked_for_again(tmp_path: Path) -> None:
    verdict, stub = verdict_of(lambda request, before: says("A" if before else "hm"), tmp_path, verdict_temperature=1.0)
    assert (shares([verdict]), len(stub.sent)) == ([1.0], 2)
    assert {request["temperature"] for _, request, _ in stub.sent} == {1.0}


def test_the_first_question_is_asked_alone(tmp_path: Path) -> None:
    with Stub(lambda request, before: replace(says("A"), delay=0.1)) as stub:
        verdicts_on(judge(tmp_path, stub.url, concurrency=8), *(item(n) for n in range(9)))
        times = [at for at, _, _ in stub.sent]
    assert times[1] - times[0] >= 0.1 and times[-1] - times[1] < 0.1
