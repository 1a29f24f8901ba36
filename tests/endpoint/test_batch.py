"""`judge.batch`: submit, wait, collect; no answer is paid for twice, whatever happens between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from icr.base.errors import UserError
from icr.endpoint.endpoint import Endpoint, NoAnswer
from icr.endpoint.reply import Reply
from tests.helpers.batch_stub import BatchApi
from tests.helpers.endpoints import FIRST_WAIT, asks, settings
from tests.helpers.judging import Steps
from tests.helpers.stub_server import Answer, Stub, fault, says

N = 40


def open_at(folder: Path, stub: Stub, reporter: Steps | None = None, **options: Any) -> Endpoint:
    return Endpoint(
        "m", folder / "c.sqlite", settings(stub.url, **options), reporter or Steps(), first_wait=FIRST_WAIT / 10,
        batch=True,
    )  # fmt: skip


def serve(api: BatchApi) -> Stub:
    stub = Stub(lambda request, before: says("A"))
    stub.other = api
    return stub


def texts(replies: list[Reply | NoAnswer]) -> list[str | None]:
    return [reply.choices[0].message.content if isinstance(reply, Reply) else reply.reason for reply in replies]


def test_one_probe_and_one_batch_and_every_answer_to_its_question(tmp_path: Path) -> None:
    api, steps, heard = BatchApi(lambda body: says(body["messages"][-1]["content"][:12])), Steps(), []
    with serve(api) as stub:
        asked = open_at(tmp_path, stub, steps)
        replies = asked.ask(asks(N), lambda more: None, lambda number, reply: heard.append(number))
        assert texts(replies)[1:] == [a.messages[0][1][:12] for a in asks(N)[1:]]
        assert sorted(heard) == list(range(N)) and len(stub.sent) == 1
        assert sum(api.billed.values()) == N - 1 and len(api.batches) == 1
        assert (asked.cost.calls, asked.cost.cached) == (N, 0)
        assert any("39 questions submitted" in note for note in steps.notes)
        assert not list(tmp_path.glob("*.batches.json"))
        again = open_at(tmp_path, stub)
        assert texts(again.ask(asks(N), lambda more: None)) == texts(replies)
        assert (again.cost.calls, again.cost.cached, len(stub.sent), len(api.batches)) == (0, N, 1, 1)


def test_half_the_price_in_the_estimate_the_cost_and_the_cache(tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("m: {input: 1.0, output: 10.0}\n")
    with serve(BatchApi()) as stub:
        asked = open_at(tmp_path, stub, prices=str(prices))
        whole = Endpoint("m", tmp_path / "d.sqlite", settings(stub.url, prices=str(prices)))
        half, full = asked.estimate(asks(N)).usd, whole.estimate(asks(N)).usd
        assert half is not None and full is not None and half == pytest.approx(full / 2)
        asked.ask(asks(N), lambda more: None)
        one = (7 * 1.0 + 1 * 10.0) / 1e6  # as the stub counts
        assert asked.cost.usd == pytest.approx(one + (N - 1) * one / 2)
        assert asked.cost_of().usd == pytest.approx(asked.cost.usd)


def test_few_questions_are_asked_at_once(tmp_path: Path) -> None:
    api = BatchApi()
    with serve(api) as stub:
        open_at(tmp_path, stub).ask(asks(20), lambda more: None)
        assert len(stub.sent) == 20 and not api.calls


class Killed(BaseException):
    """What a kill is to the code: nothing after it runs."""


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "files"), ("POST", "batches"), ("GET", "batches/batch_0"), ("GET", "files/")]
)
def test_a_kill_at_any_place_pays_for_nothing_twice(
    method: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request has reached the endpoint, and the command is gone before it reads the answer."""
    import httpx2

    api = BatchApi()
    send = httpx2.Client.send
    with serve(api) as stub:

        def dying(self: Any, request: Any, **options: Any) -> Any:
            response = send(self, request, **options)
            if request.method == method and request.url.path.startswith(f"/v1/{path}"):
                raise Killed
            return response

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(httpx2.Client, "send", dying)
            open_at(tmp_path, stub).ask(asks(N), lambda more: None)
        replies = open_at(tmp_path, stub).ask(asks(N), lambda more: None)
        assert texts(replies) == ["A"] * N
        assert max(api.billed.values()) == 1 and sum(api.billed.values()) + len(stub.sent) == N
        assert not list(tmp_path.glob("*.batches.json"))


def test_what_a_batch_did_not_answer_is_asked_one_by_one(tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> Answer:
        text = body["messages"][-1]["content"]
        if "Question 5?" in text:
            return Answer(b"", status=0)
        return fault(500) if "Question 7?" in text else says("A")

    api = BatchApi(answer)
    with serve(api) as stub:
        assert texts(open_at(tmp_path, stub).ask(asks(N), lambda more: None)) == ["A"] * N
        assert len(stub.sent) == 3 and {r["messages"][-1]["content"][:11] for _, r, _ in stub.sent[1:]} == {
            "Question 5?",
            "Question 7?",
        }


def test_an_expired_batch_keeps_what_it_has(tmp_path: Path) -> None:
    api = BatchApi(lambda body: Answer(b"", status=0) if "Question 3" in body["messages"][-1]["content"] else says("A"))
    api.status = "expired"
    with serve(api) as stub:
        assert texts(open_at(tmp_path, stub).ask(asks(N), lambda more: None)) == ["A"] * N
        assert len(stub.sent) == 1 + 11  # 3 and 30–39


def test_a_batch_that_is_not_taken_is_told_and_forgotten(tmp_path: Path) -> None:
    api = BatchApi()
    api.status, api.errors = "failed", [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached"}]
    with serve(api) as stub:
        with pytest.raises(UserError, match="did not accept a batch of 39 questions: Enqueued token limit reached"):
            open_at(tmp_path, stub).ask(asks(N), lambda more: None)
        assert not list(tmp_path.glob("*.batches.json"))
        api.status = "completed"
        assert texts(open_at(tmp_path, stub).ask(asks(N), lambda more: None)) == ["A"] * N


def test_an_endpoint_without_batches_is_told(tmp_path: Path) -> None:
    api = BatchApi()
    api.fails = lambda method, path: fault(404, "Not Found")
    with serve(api) as stub, pytest.raises(UserError, match="no Batch API") as caught:
        open_at(tmp_path, stub).ask(asks(N), lambda more: None)
    assert "judge.batch" in caught.value.do


def test_the_budget_is_kept_with_what_fits_in_a_batch(tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("m: {input: 0.0, output: 100000.0}\n")  # $0.1 a token: 8 at most, 1 in truth; half in a batch
    api = BatchApi()
    with serve(api) as stub:
        asked = open_at(tmp_path, stub, prices=str(prices), budget=12.0)
        asked.ask(asks(N), lambda more: None)  # at most 0.8 + 39 × 0.4 is more; so 28 fit first
        assert len(api.batches) == 1 and sum(api.billed.values()) < N - 1
        assert asked.cost.usd is not None and asked.cost.usd <= 12.0


def test_no_secret_is_in_the_record_or_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    api = BatchApi(looks=10**9)
    with serve(api) as stub:

        def failing(method: str, path: str) -> Answer | None:
            looked = method == "GET" and path.startswith("/batches/")
            return fault(401, "Incorrect API key sk-very-secret") if looked else None

        api.fails = failing
        with pytest.raises(UserError) as caught:
            open_at(tmp_path, stub).ask(asks(N), lambda more: None)
    (record,) = tmp_path.glob("*.batches.json")
    assert "secret" not in record.read_text() + str(caught.value) and "batch_0" in record.read_text()
