"""The endpoint judge through HTTP on loopback: what stops it, what it never asks twice, and where its key is not."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from eval.judges.endpoint import EndpointJudge
from eval.judges.open import Examiner, check_judge, open_judge
from eval.xalpaca.answers import load_baseline, read_answers
from eval.xalpaca.pairwise import run_verdicts
from eval.xalpaca.summary import summarise
from icr.base.errors import UserError
from icr.base.files import read_rows, write_json, write_rows
from icr.base.progress import EventFile, Silent
from icr.config.schema import Judge as JudgeConfig
from icr.endpoint.cache import Cache
from icr.endpoint.ledger import command_ledger
from icr.rows import RESPONSES
from icr.work.resident import Resident
from tests.helpers.endpoints import KEY, always, endpoint, item, item_of, judge, shares, verdicts_on
from tests.helpers.judging import judged_by
from tests.helpers.stub_server import Answer, Stub, fault, prefers_good, says

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


# What stops at once.


@pytest.mark.parametrize(
    ("answer", "says_what"),
    [
        (fault(401, f"Incorrect API key provided: {KEY}."), "rejects the key"),
        (fault(403, "not yours"), "rejects the key"),
        (fault(404, "The model `m` does not exist"), "does not know the model m"),
        (Answer(b"<html>not here</html>", 404), "HTTP 404: no reason is given"),
        (fault(429, "You exceeded your current quota", code="insufficient_quota"), "no credit left"),
    ],
)
def test_what_no_retry_can_mend_stops_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer, says_what: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Stub(always(answer)) as stub:
        asked = judge(tmp_path, stub.url, concurrency=2)
        with pytest.raises(UserError, match=says_what) as caught:
            verdicts_on(asked, *(item(n) for n in range(50)))
        assert caught.value.do and KEY not in str(caught.value)
        assert len(stub.sent) <= 4


def test_an_endpoint_that_cannot_be_reached_stops_and_one_that_goes_down_too(tmp_path: Path) -> None:
    with Stub(prefers_good) as stub:
        url = stub.url
    asked = judge(tmp_path, url)
    with pytest.raises(UserError, match="does not answer"):
        verdicts_on(asked, item())
    with Stub(lambda request, before: says("A") if int(item_of(request)) < 10 else fault(502)) as stub:
        asked = judge(tmp_path, stub.url, name="d", concurrency=1)
        with pytest.raises(UserError, match=r"does not answer: HTTP 502"):
            verdicts_on(asked, *(item(n) for n in range(100)))
        assert len(stub.asked) == 30  # 10 answered, then 20 failures in a row
        stub.script = prefers_good
        verdicts = verdicts_on(asked, *(item(n) for n in range(100)))
        assert shares(verdicts) == [1.0] * 100
        assert [stub.asked[q] for q in list(stub.asked)[:10]] == [1] * 10  # nothing that was judged is lost


def test_an_endpoint_that_fails_often_but_answers_between_is_not_taken_to_be_down(tmp_path: Path) -> None:
    def script(request: dict[str, Any], before: int) -> Answer:
        return fault(502) if int(item_of(request)) % 2 else says("A")

    with Stub(script) as stub:
        asked = judge(tmp_path, stub.url, concurrency=1, attempts=1)
        verdicts = verdicts_on(asked, *(item(n) for n in range(60)))
    assert shares(verdicts) == [1.0, None] * 30


def open_worker(config: JudgeConfig, folder: Path) -> EndpointJudge:
    """The judge as a new worker makes it, in a command that found `folder` without a cache."""
    opened = open_judge(Resident(), Examiner.of(config, folder / "c.sqlite"), Silent())
    assert isinstance(opened, EndpointJudge)
    return opened


@pytest.mark.parametrize("base_url", [None, "http://judge.example.org/v1"])
def test_a_missing_key_is_named_before_anything_is_sent(tmp_path: Path, base_url: str | None) -> None:
    config = JudgeConfig(kind="openai", model="m", base_url=base_url)
    for look in (check_judge, lambda judge: open_worker(judge, tmp_path)):
        with pytest.raises(UserError, match="no key") as caught:
            look(config)
    assert "OPENAI_API_KEY" in str(caught.value)


@pytest.mark.parametrize("base_url", ["localhost:8000/v1", "/v1", "ftp://localhost/v1"])
def test_a_base_url_that_is_none_is_refused(tmp_path: Path, base_url: str) -> None:
    with pytest.raises(UserError, match="not a web address"):
        endpoint(tmp_path, base_url)


def test_no_model_is_refused() -> None:
    with pytest.raises(UserError, match="the judge has no model"):
        check_judge(JudgeConfig(kind="openai"))


def test_a_budget_is_the_commands_also_when_a_worker_takes_the_place_of_another(tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("m: {input: 1000.0, output: 1000.0}\n")  # 8 tokens an answer are $0.008
    with Stub(prefers_good) as stub:
        config = JudgeConfig(kind="openai", model="m", base_url=stub.url, prices=str(prices), concurrency=1)
        opened = open_worker(config, tmp_path)
        most = opened.endpoint.estimate([opened.ask_of(item(0))]).usd  # what is set aside for a question
        config = config.model_copy(update={"budget": (most or 0.0) + 0.012})
        with pytest.raises(UserError, match="the budget is used up"):
            verdicts_on(open_worker(config, tmp_path), *(item(n) for n in range(5)))
        paid = len(stub.sent)
        assert paid == 2
        again = open_worker(config, tmp_path)
        with pytest.raises(UserError, match="the budget is used up"):
            verdicts_on(again, *(item(n) for n in range(5)))
        assert len(stub.sent) == paid
        # also in another round, with a cache of its own
        with pytest.raises(UserError, match=r"\$0.0160 of .* is spent"):
            verdicts_on(open_worker(config, tmp_path / "other"), item(9))
        assert len(stub.sent) == paid
        command_ledger.cache_clear()  # another command
        with pytest.raises(UserError, match="the budget is used up"):
            verdicts_on(open_worker(config, tmp_path), *(item(n) for n in range(5)))
        assert len(stub.sent) == 2 * paid


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
from rich.console import Console
from eval.judges.asking import Judging
from eval.xalpaca.answers import load_baseline, read_answers
from eval.xalpaca.pairwise import run_verdicts
from icr.config.schema import Judge
from icr.work.machine import Machine
url, answers, baseline, out = sys.argv[1], *map(Path, sys.argv[2:])
judge = Judge(kind="openai", model="m", base_url=url, concurrency=4)
judging = Judging.of(judge, None, Machine(out, Console(quiet=True)), "key", out / "cache.sqlite")
run_verdicts(judging, answers, load_baseline(baseline, read_answers(answers)), out)
"""


def test_killed_three_times_with_sigkill_no_answered_question_is_asked_again(tmp_path: Path) -> None:
    answers, baseline = make_round(tmp_path, 200)
    out, under_way = tmp_path / "judge", 4

    def script(request: dict[str, Any], before: int) -> Answer:
        return replace(prefers_good(request, before), delay=0.02)

    with Stub(script) as stub:
        for kill_at in (40, 160, 270):
            arguments = [stub.url, str(answers), str(baseline), str(out)]
            process = subprocess.Popen([sys.executable, "-c", RUN, *arguments], cwd=ROOT)
            while stub.answered < kill_at and process.poll() is None:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            assert not (out / "verdicts" / "en.parquet").exists()
        kept, asked = len(Cache(out / "cache.sqlite")), sum(stub.asked.values())
        assert stub.answered - 3 * under_way <= kept <= stub.answered  # but for answers on their way at a kill
        for more in (400 - kept, 0):  # what is missing; then, of a finished language, nothing
            again = judged_by(judge(out, stub.url, name="cache"), "openai: m", 4096)
            run_verdicts(again, answers, load_baseline(baseline, read_answers(answers)), out)
            assert sum(stub.asked.values()) - asked == more
            asked += more
        assert sum(count - 1 for count in stub.asked.values()) <= 3 * under_way
        assert max(stub.asked.values()) <= 3
    assert [r["preference"] for r in read_rows(out / "verdicts" / "en.parquet")] == [1.0] * 400
    assert not (out / "verdicts" / "pieces").exists()


def test_the_key_is_sent_and_is_in_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\n")
    answers, baseline = make_round(tmp_path, 6)
    out, events = tmp_path / "judge", EventFile(tmp_path / "events.jsonl")

    def script(request: dict[str, Any], before: int) -> Answer:
        echo = {"0": fault(500, f"key {KEY}"), "1": fault(400, f"key {KEY}"), "2": says("C")}
        return echo.get(item_of(request), says("A"))

    with Stub(script) as stub:
        asked = judge(out, stub.url, events, name="cache")
        judging = judged_by(asked, "openai: m")
        run_verdicts(judging, answers, load_baseline(baseline, read_answers(answers)), out)
        assert {headers["authorization"] for _, _, headers in stub.sent} == {f"Bearer {KEY}"}
    joined = load_baseline(baseline, read_answers(answers))
    cost = asdict(asked.endpoint.cost_of())
    write_json(out / "summary.json", summarise(answers, joined, out, judging.name, "b") | {"cost": cost})
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
        asked = judge(out, stub.url, name="cache")
        joined = load_baseline(baseline, read_answers(answers))
        run_verdicts(judged_by(asked, "openai: m"), answers, joined, out)
    row = summarise(answers, joined, out, "openai: m", "round-0")["languages"]["en"]
    assert (row["n"], row["unscored"], row["unscored_verdicts"]) == (10, 2, 4)
    assert row["reasons"] == {"verdict outside the labels": 2, "no answer: HTTP 500": 2}
    assert row["win_rate"] == pytest.approx(95.0)  # nine wins and one half
    assert row["position_bias"] == pytest.approx(0.1)
