"""Questions that an endpoint does not answer: asked again by the same command, and never too many in a result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval.judges.asking import TooManyUnscored
from eval.xalpaca.answers import load_baseline, read_answers
from eval.xalpaca.pairwise import run_verdicts
from icr.base.files import read_rows
from tests.commands.test_judge_cli import prefers_longer, write_public
from tests.eval.test_judge_stops import make_round
from tests.helpers.command import icr
from tests.helpers.endpoints import item_of, judge
from tests.helpers.inline import run_inline
from tests.helpers.judging import judged_by
from tests.helpers.stub_server import Answer, Script, Stub, completion, fault, prefers_good, says


def sometimes(answer: Answer, numbers: Callable[[int], bool]) -> Script:
    return lambda request, before: answer if numbers(int(item_of(request))) else prefers_good(request, before)


def verdicts(folder: Path, stub: Stub, allowed: float = 1.0) -> list[float | None]:
    """Of twelve prompts in both orders, into one folder."""
    answers, baseline = make_round(folder, 12)
    judging = judged_by(judge(folder / "out", stub.url, name="cache", attempts=1), "openai: m")
    judging = replace(judging, max_unscored=allowed)
    run_verdicts(judging, answers, load_baseline(baseline, read_answers(answers)), folder / "out")
    return [row["preference"] for row in read_rows(folder / "out" / "verdicts" / "en.parquet")]


@pytest.mark.parametrize("answer", [fault(503), fault(500), Answer(b"{"), Answer(says("A").body, cut=True)])
def test_a_recovered_endpoint_is_asked_what_it_had_not_answered(tmp_path: Path, answer: Answer) -> None:
    with Stub(sometimes(answer, lambda number: number % 4 == 1)) as stub:
        assert verdicts(tmp_path, stub).count(None) == 6
        stub.script, asked = prefers_good, len(stub.sent)
        assert verdicts(tmp_path, stub) == [1.0] * 24
        assert len(stub.sent) == asked + 6  # and what was answered is not paid for again
        verdicts(tmp_path, stub)
        assert len(stub.sent) == asked + 6


def test_what_no_other_time_can_bring_is_not_asked_again(tmp_path: Path) -> None:
    too_long = fault(400, "This model's maximum context length is 10 tokens.")
    with Stub(sometimes(too_long, lambda number: number == 0)) as stub:
        assert verdicts(tmp_path, stub).count(None) == 2
        asked = len(stub.sent)
        assert verdicts(tmp_path, stub).count(None) == 2
        assert len(stub.sent) == asked


def test_more_unscored_questions_than_allowed_are_no_result_but_their_reasons(tmp_path: Path) -> None:
    replies = {"1": fault(503), "2": says("both")}
    with Stub(lambda request, before: replies.get(item_of(request)) or prefers_good(request, before)) as stub:
        with pytest.raises(TooManyUnscored) as caught:
            verdicts(tmp_path, stub, allowed=0.05)
        said = str(caught.value)
        assert "4 of 24 questions have no verdict, more than 5%" in said
        assert "2  no answer: HTTP 503, such as: HTTP 503: " in said
        assert "2  verdict outside the labels, such as: both\n" in said
        assert "rerun the same command to ask 2 of them again" in said and "judge.max_unscored" in said
        assert verdicts(tmp_path, stub, allowed=0.2).count(None) == 4


def test_a_judge_without_room_for_its_verdict_is_given_a_way_out(tmp_path: Path) -> None:
    """Also where so few questions are asked that the judge is not stopped before their end."""
    cut = completion([{"finish_reason": "length", "message": {"content": None, "reasoning_content": "Hm\x1b[31m"}}])
    with Stub(lambda request, before: cut if item_of(request) == "1" else prefers_good(request, before)) as stub:
        with pytest.raises(TooManyUnscored) as caught:
            verdicts(tmp_path, stub, allowed=0.05)
        assert "reasoning: …Hm" in str(caught.value) and "\x1b" not in str(caught.value)
        assert "judge.verdict_tokens" in str(caught.value) and "judge.reasoning_effort" in str(caught.value)


# Whole commands.


def run(folder: Path, url: str, *more: str, code: int = 0) -> str:
    names = {"ours": "Antwort {} und noch viel mehr davon als die andere", "theirs": "{} kurz"}
    for name, text in names.items():
        write_public(folder / name, name, "de", {n: text.format(n) for n in range(1, 13)})
    words = ["judge", "xalpaca", "ours", "--judge", "openai:m", "--baseline", "theirs", "--languages", "de",
             "--out", "out", "--set", f"judge.base_url={url}", "--set", "judge.attempts=1", *more]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        run_inline(patch)
        done = icr(*words, cwd=folder, code=code, env={"OPENAI_API_KEY": None, "OPENAI_BASE_URL": None})
    return done.stdout + done.stderr


def test_a_short_outage_is_exit_1_and_the_same_command_then_has_the_result(tmp_path: Path) -> None:
    def script(request: dict[str, Any], before: int) -> Answer:
        return fault(503) if "Antwort 3 " in request["messages"][-1]["content"] else prefers_longer(request, before)

    with Stub(script) as stub:
        said = run(tmp_path, stub.url, code=1)
        assert "no answer: HTTP 503" in said and "win rate" not in said.splitlines()[-1]
        assert not (tmp_path / "out" / "summary.json").exists()
        run(tmp_path, stub.url, "--set", "judge.max_unscored=0.1")  # a result without them
        stub.script, asked = prefers_longer, len(stub.sent)
        said = run(tmp_path, stub.url)
        assert "100.0" in said and len(stub.sent) == asked + 2


def test_a_judge_that_reasons_ends_with_its_reason_and_few_paid_answers(tmp_path: Path) -> None:
    choice = {"finish_reason": "length", "message": {"content": None, "reasoning_content": "Let me see"}}
    with Stub(lambda request, before: completion([choice])) as stub:
        said = run(tmp_path, stub.url, "--set", "judge.concurrency=2", code=2)
        assert "all tokens went into reasoning" in said and "judge.verdict_tokens" in said
        assert len(stub.sent) <= 24
        stub.script = prefers_longer  # as it answers with more room, and that is asked for in the same folder
        more = ["--set", "judge.verdict_tokens=4096"]
        said = run(tmp_path, stub.url, *more)
        assert "starts over: judge.verdict_tokens: not used → 4096" in " ".join(said.split()) and "100.0" in said
        assert "other settings" in run(tmp_path, stub.url, code=2)  # it is finished


def test_another_address_does_not_get_the_answers_of_the_first(tmp_path: Path) -> None:
    def script(request: dict[str, Any], before: int) -> Answer:
        return fault(503) if "Antwort 3 " in request["messages"][-1]["content"] else prefers_longer(request, before)

    with Stub(script) as one:
        run(tmp_path, one.url, code=1)
        with Stub(prefers_longer) as other:
            said = run(tmp_path, other.url, code=2)
            assert "judge.base_url" in said and not other.sent
