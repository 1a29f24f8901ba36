"""What an endpoint may be asked: rates, prices, the budget, and what asking would cost."""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from icr.base.errors import UserError
from icr.config.schema import Endpoint as Settings
from icr.endpoint.endpoint import Endpoint
from icr.endpoint.limits import Rates
from icr.endpoint.prices import Estimate, Usage, find_price, guess_prompt_tokens, read_prices
from tests.helpers.endpoints import asks, endpoint, item, item_of, judge, verdicts_on
from tests.helpers.judging import Steps
from tests.helpers.stub_server import Answer, Stub, completion, fault, says

OPENAI = "https://api.openai.com/v1"


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def priced(folder: Path, text: str = "m: {input: 1000, output: 10000}") -> str:
    """A file of prices: a tenth of a cent a prompt token, a cent a completion token, unless the text says otherwise."""
    path = folder / "prices.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def takes(prompt: int, completion_tokens: int) -> Answer:
    choice = {"index": 0, "finish_reason": "stop", "message": {"content": "A"}}
    return completion([choice], prompt, completion_tokens)


# Rates.


def test_requests_are_spread_over_the_minute_and_over_calls(tmp_path: Path) -> None:
    with Stub(lambda request, before: says("A")) as stub:
        asked = endpoint(tmp_path, stub.url, requests_per_minute=600)  # ten a second, and ten at once
        asked.ask(asks(16), lambda more: None)
        asked.ask(asks(20)[16:], lambda more: None)
        times = [at for at, _, _ in stub.sent]
    assert len(times) == 20
    for n in range(10, 20):  # never more than a second's share and what has leaked since
        assert times[n] - times[0] >= (n - 10) / 10 - 0.05


def test_few_requests_a_minute_come_one_at_a_time(tmp_path: Path) -> None:
    with Stub(lambda request, before: says("A")) as stub:
        endpoint(tmp_path, stub.url, requests_per_minute=59).ask(asks(3), lambda more: None)
        times = [at for at, _, _ in stub.sent]
    assert [b - a >= 0.97 for a, b in pairwise(times)] == [True, True]


def test_retries_are_requests_too(tmp_path: Path) -> None:
    with Stub(lambda request, before: says("A") if before else fault(500)) as stub:
        endpoint(tmp_path, stub.url, requests_per_minute=59).ask(asks(1), lambda more: None)
        assert stub.sent[1][0] - stub.sent[0][0] >= 0.97


def test_tokens_are_counted_before_by_a_guess_and_after_by_the_api(tmp_path: Path) -> None:
    async def seconds(used: int) -> float:
        rates = Rates(None, 60_000)  # a thousand a second
        rates.begin()
        await rates.wait(1000)
        rates.correct(1000, used)
        started = time.monotonic()
        await rates.wait(500)
        return time.monotonic() - started

    assert asyncio.run(seconds(1000)) == pytest.approx(0.5, abs=0.2)
    assert asyncio.run(seconds(100)) < 0.2  # 900 of the guess were never used
    assert asyncio.run(seconds(1700)) == pytest.approx(1.2, abs=0.2)


def test_a_question_larger_than_a_seconds_share_of_tokens_waits_and_goes(tmp_path: Path) -> None:
    (ask,) = asks(1, max_tokens=1500)
    with Stub(lambda request, before: takes(10, 5)) as stub:
        started = time.monotonic()
        endpoint(tmp_path, stub.url, tokens_per_minute=60_000).ask([ask], lambda more: None)
        assert stub.sent[0][0] - started >= 0.5  # 1,500 and some at a thousand a second, the first thousand at once


# Prices.


def test_known_prices_are_found_without_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*args: Any, **options: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    price = find_price("gpt-4o-2024-08-06", OPENAI, None)
    assert price is not None
    assert price(Usage(1_000_000, 0)) == pytest.approx(2.5)
    assert price(Usage(0, 1_000_000)) == pytest.approx(10.0)
    assert price(Usage(1_000_000, 0, cached=1_000_000)) == pytest.approx(1.25)


@pytest.mark.parametrize(("model", "url"), [("no-such-model", OPENAI), ("gpt-4o", "http://127.0.0.1:8000/v1")])
def test_a_model_or_address_that_is_not_in_the_table_has_no_price(model: str, url: str) -> None:
    assert find_price(model, url, None) is None


def test_the_users_prices_come_first(tmp_path: Path) -> None:
    table = priced(tmp_path, "gpt-4o: {input: 1, output: 2}\nother: {input: 0, output: 0}")
    price, known = find_price("gpt-4o", OPENAI, table), find_price("gpt-4.1", OPENAI, table)
    assert price is not None and known is not None
    assert price(Usage(1_000_000, 500_000)) == pytest.approx(2.0)


@pytest.mark.parametrize(
    "text",
    [
        *("", "- m", "m: 3", "m: [", "m: {input: 1}"),
        *("m: {input: 1, output: -2}", "m: {input: x, output: 1}", "m: {input: .inf, output: 1}"),
    ],
)
def test_a_table_that_is_none_says_what_it_should_be(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="prices cannot be read") as caught:
        read_prices(Path(priced(tmp_path, text)))
    assert "input: 2.5" in caught.value.do
    with pytest.raises(UserError, match="prices cannot be read"):
        read_prices(tmp_path / "absent.yaml")


# Cost.


def test_cost_is_the_apis_count_times_the_price_and_kept_answers_cost_nothing(tmp_path: Path) -> None:
    with Stub(lambda request, before: takes(100, 2)) as stub:
        first = endpoint(tmp_path, stub.url, prices=priced(tmp_path))
        first.ask(asks(3), lambda more: None)
        second = endpoint(tmp_path, stub.url, prices=priced(tmp_path))
        second.ask(asks(5), lambda more: None)
    assert (first.cost.calls, first.cost.cached, first.cost.prompt_tokens) == (3, 0, 300)
    assert first.cost.usd == pytest.approx(3 * (100 * 0.001 + 2 * 0.01))
    assert (second.cost.calls, second.cost.cached) == (2, 3)
    assert second.cost.usd == pytest.approx(2 * 0.12)
    whole = second.cost_of()  # of the evaluation, whichever command paid
    assert (whole.calls, whole.usd) == (5, pytest.approx(5 * 0.12))
    assert second.cost_of(asks(2)).usd == pytest.approx(2 * 0.12)
    assert second.cost_of(asks(9)[5:]).calls == 0


def test_an_evaluations_cost_counts_further_readings(tmp_path: Path) -> None:
    with Stub(lambda request, before: takes(100, 2) if before else says("hm")) as stub:
        asked = judge(tmp_path, stub.url, prices=priced(tmp_path))
        verdicts_on(asked, item(0), item(1))
        again = judge(tmp_path, stub.url, prices=priced(tmp_path))
    total = 2 * (0.007 + 0.01) + 2 * 0.12
    assert asked.endpoint.cost_of().usd == pytest.approx(total)
    assert again.endpoint.cost_of().usd == pytest.approx(total) and again.endpoint.cost_of().calls == 4


def test_an_answer_that_was_paid_for_and_cannot_be_used_costs(tmp_path: Path) -> None:
    with Stub(lambda request, before: takes(100, 2) if before else completion([], 50, 0)) as stub:
        asked = endpoint(tmp_path, stub.url, prices=priced(tmp_path))
        asked.ask(asks(1), lambda more: None)
    assert (asked.cost.calls, asked.cost.prompt_tokens) == (2, 150)
    assert asked.cost.usd == pytest.approx(0.05 + 0.12)


def test_an_endpoint_that_counts_no_tokens_is_guessed_and_said(tmp_path: Path) -> None:
    steps = Steps()
    with Stub(lambda request, before: Answer(b'{"choices": [{"message": {"content": "A"}}]}')) as stub:
        asked = endpoint(tmp_path, stub.url, steps, prices=priced(tmp_path))
        asked.ask(asks(2), lambda more: None)
    assert [n for n in steps.notes if "does not count tokens" in n] == steps.notes
    assert asked.cost.prompt_tokens == 2 * guess_prompt_tokens(["Question 0?\ngood\nbad"])
    assert asked.cost_of().usd == pytest.approx(asked.cost.usd)


def test_without_a_price_tokens_are_counted_and_money_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Stub(lambda request, before: takes(100, 2)) as stub:
        asked = judge(tmp_path, stub.url, steps := Steps())
        verdicts_on(asked, item())
    assert ((whole := asked.endpoint.cost_of()).usd, whole.prompt_tokens) == (None, 100)
    assert steps.statuses == ["102 tokens, 0 unscored"]
    assert not [n for n in steps.notes if "price" in n]  # a server on this machine sends no bill
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    Endpoint("m", tmp_path / "d.sqlite", Settings(base_url="https://judge.example.org/v1"), steps)
    assert [n for n in steps.notes if "the price of m" in n]


# The budget.


def test_the_budget_stops_before_the_request_that_may_exceed_it_and_goes_on_with_more(tmp_path: Path) -> None:
    answer = replace(
        takes(30, 8), delay=0.02
    )  # 3 + 8 cents; set aside: (7 + 8) * 0.1 + 8 = 9.5 cents, then by the count
    with Stub(lambda request, before: answer) as stub:
        done: list[int] = []
        asked = endpoint(tmp_path, stub.url, prices=priced(tmp_path), budget=1.0, concurrency=4)
        with pytest.raises(UserError, match="budget is used up") as caught:
            asked.ask(asks(50), done.append)
        assert "raise judge.budget" in caught.value.do
        assert asked.cost.usd is not None and 0.5 < asked.cost.usd <= 1.0
        paid = len(stub.sent)
        assert paid == sum(done) == asked.cost.calls == 9  # a tenth would make 1.10 dollars
        more = endpoint(tmp_path, stub.url, prices=priced(tmp_path), budget=100.0, concurrency=4)
        assert len(more.ask(asks(50), lambda count: None)) == 50
        assert (len(stub.sent), more.cost.cached) == (50, paid)


def test_requests_under_way_count_and_are_waited_for(tmp_path: Path) -> None:
    questions = asks(20, max_tokens=64)  # 64 cents may be taken, one is
    with Stub(lambda request, before: replace(takes(1, 1), delay=0.05)) as stub:
        asked = endpoint(tmp_path, stub.url, prices=priced(tmp_path), budget=1.5, concurrency=20)
        asked.ask(questions, lambda more: None)
        assert stub.most_busy == 2  # three answers of 64 cents would be more than the budget
    assert asked.cost.usd == pytest.approx(20 * 0.011)


def test_the_budget_is_kept_when_answers_are_longer_than_they_may_be(tmp_path: Path) -> None:
    """Reasoning tokens, which some servers do not count in max_tokens: 8 may come, 100 do, for a dollar each."""
    with Stub(lambda request, before: replace(takes(1, 100), delay=0.02)) as stub:
        asked = endpoint(tmp_path, stub.url, prices=priced(tmp_path), budget=5.0, concurrency=16)
        with pytest.raises(UserError, match="budget is used up"):
            asked.ask(asks(50), lambda more: None)
        assert asked.cost.usd is not None and 4.0 < asked.cost.usd <= 5.0
        assert len(stub.sent) == asked.cost.calls == 4


def test_a_request_without_an_answer_may_be_billed_and_counts(tmp_path: Path) -> None:
    questions = asks(20, max_tokens=64)  # 64 cents may be taken
    with Stub(lambda request, before: replace(takes(1, 1), delay=9.0 if before == 0 else 0.0)) as stub:
        asked = endpoint(tmp_path, stub.url, prices=priced(tmp_path), budget=2.0, concurrency=1, timeout=0.2)
        with pytest.raises(UserError, match="budget is used up"):
            asked.ask(questions, lambda more: None)
        assert len(stub.sent) <= 6


def test_one_account_is_shared_by_all_that_a_command_asks(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    ledger.touch()
    with Stub(lambda request, before: takes(30, 8)) as stub:  # 11 cents each
        for name in ("round-1", "round-2"):
            own = Settings(base_url=stub.url, prices=priced(tmp_path), budget=1.0, concurrency=4)
            asked = Endpoint("m", tmp_path / f"{name}.sqlite", own, ledger=ledger)
            with pytest.raises(UserError, match="budget is used up"):
                asked.ask(asks(50), lambda more: None)
        assert len(stub.sent) == 9


def test_a_budget_without_a_price_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="budget cannot be kept") as caught:
        endpoint(tmp_path, "http://127.0.0.1:9/v1", budget=1.0)
    assert "judge.prices" in caught.value.do and "m: {input" in caught.value.do


@pytest.mark.parametrize("budget", [0, -1])
def test_a_budget_of_nothing_is_refused(budget: float) -> None:
    with pytest.raises(ValidationError):
        Settings(budget=budget)


# What asking would cost.


def test_an_estimate_sends_nothing_needs_no_key_and_makes_no_file(tmp_path: Path) -> None:
    options = Settings(base_url="https://judge.example.org/v1", prices=priced(tmp_path))
    dry = Endpoint("m", tmp_path / "e" / "c.sqlite", options, dry=True)
    questions = [*asks(3, max_tokens=100), *asks(1, max_tokens=100)]
    guess = guess_prompt_tokens(["Question 0?\ngood\nbad"])
    assert dry.estimate(questions) == Estimate(3, 0, 3 * guess, 300, pytest.approx(3 * (guess * 0.001 + 1.0)))
    assert not (tmp_path / "e").exists()


def test_an_estimate_leaves_out_what_is_there(tmp_path: Path) -> None:
    with Stub(lambda request, before: says("A")) as stub:
        asked = judge(tmp_path, stub.url)
        verdicts_on(asked, item(0), item(1))
        found = asked.estimate([item(n) for n in range(5)])
        assert (found.calls, found.cached, found.usd, len(stub.sent)) == (3, 2, None, 2)
        assert found.completion_tokens == 3 * 3 * 16  # with all readings of what cannot be read
        assert all(item_of(request) in "01" for _, request, _ in stub.sent)
