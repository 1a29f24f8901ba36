"""What providers refuse, in their own words: a row a provider. It is asked differently, once, and remembered."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from icr.base.errors import UserError
from tests.helpers.endpoints import item, judge, shares, verdicts_on
from tests.helpers.judging import Steps
from tests.helpers.stub_server import Answer, Stub, fault, says


def raw(status: int, body: object) -> Answer:
    return Answer(json.dumps(body).encode(), status)


@dataclass(frozen=True)
class Refusal:
    """An endpoint that takes a request only when `if_sent` is not in it, or has not this value."""

    answer: Answer
    if_sent: str
    becomes: str | None
    """What is sent instead; None: the parameter is left out."""
    said: str
    allowed: object = None
    """A value that is taken after all."""


REFUSALS = {
    "openai, logprobs of a reasoning model": Refusal(
        fault(403, "You are not allowed to request logprobs from this model", type="invalid_request_error", code=None),
        "logprobs", None, "does not support logprobs",
    ),
    "openai, max_tokens of a reasoning model": Refusal(
        fault(400, "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' "
              "instead.", param="max_tokens", code="unsupported_parameter"),
        "max_tokens", "max_completion_tokens", "takes max_completion_tokens in place of max_tokens",
    ),
    "openai, temperature of a reasoning model": Refusal(
        fault(400, "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is "
              "supported.", param="temperature", code="unsupported_value"),
        "temperature", None, "does not support temperature", allowed=1,
    ),
    "anthropic, temperature": Refusal(
        raw(400, {"type": "error", "error": {"type": "invalid_request_error",
                                             "message": "`temperature` is deprecated for this model."}}),
        "temperature", None, "does not support temperature",
    ),
    "anthropic, temperature while thinking": Refusal(
        fault(400, "`temperature` may only be set to 1 when thinking is enabled."),
        "temperature", None, "does not support temperature", allowed=1,
    ),
    "gemini, a list around the error": Refusal(
        raw(400, [{"error": {"code": 400, "message": "Logprobs is not enabled for models/stub",
                             "status": "INVALID_ARGUMENT"}}]),
        "logprobs", None, "does not support logprobs",
    ),
    "mistral": Refusal(
        raw(422, {"object": "error", "message": {"detail": [{"type": "extra_forbidden", "loc": ["body", "logprobs"],
                  "msg": "Extra inputs are not permitted", "input": True}]}, "type": "invalid_request_error"}),
        "logprobs", None, "does not support logprobs",
    ),
    "pydantic 1": Refusal(
        raw(422, {"detail": [{"loc": ["body", "logprobs"], "msg": "extra fields not permitted",
                              "type": "value_error.extra"}]}),
        "logprobs", None, "does not support logprobs",
    ),
    "a deployment without top_logprobs": Refusal(
        fault(400, "top_logprobs is not available for this deployment"),
        "top_logprobs", None, "does not support top_logprobs",
    ),
    "groq": Refusal(
        fault(400, "`logprobs` is not supported with this model"), "logprobs", None, "does not support logprobs",
    ),
    "a server of before max_completion_tokens, the other way round": Refusal(
        fault(400, "Unrecognized request argument supplied: max_tokens"),
        "max_tokens", "max_completion_tokens", "takes max_completion_tokens",
    ),
    "tgi": Refusal(
        fault(422, "Input validation error: `temperature` must be strictly positive"),
        "temperature", None, "does not support temperature",
    ),
    "openai, a model of before structured outputs": Refusal(
        fault(400, "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model. Learn "
              "more about supported models at the Structured Outputs guide.", param=None, code=None),
        "response_format", None, "does not support response_format",
    ),
    "a server that knows no response_format": Refusal(
        raw(422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "response_format"],
                              "msg": "Extra inputs are not permitted"}]}),
        "response_format", None, "does not support response_format",
    ),
    "openrouter, a provider without it": Refusal(
        fault(400, "Structured outputs are not supported by this provider"),
        "response_format", None, "does not support structured outputs",
    ),
    "plain text": Refusal(
        Answer(b"unknown field logprobs", 400), "logprobs", None, "does not support logprobs",
    ),
}  # fmt: skip


@pytest.mark.parametrize("provider", REFUSALS)
def test_what_a_provider_refuses_is_asked_differently_once_and_said(provider: str, tmp_path: Path) -> None:
    refusal, steps = REFUSALS[provider], Steps()

    def script(request: dict[str, Any], before: int) -> Answer:
        sent = refusal.if_sent in request and request[refusal.if_sent] != (refusal.allowed or object())
        return refusal.answer if sent else says("A")

    with Stub(script) as stub:
        structured = refusal.if_sent == "response_format"
        asked = judge(tmp_path, stub.url, steps, concurrency=8, structured=structured)
        verdicts = verdicts_on(asked, *(item(n) for n in range(30)))
        requests = [request for _, request, _ in stub.sent]
    assert shares(verdicts) == [1.0] * 30
    assert len(requests) == 31  # the first question tells, and the others are asked rightly
    assert refusal.if_sent not in requests[-1] and (refusal.becomes is None or refusal.becomes in requests[-1])
    assert len([note for note in steps.notes if refusal.said in note]) == 1


def test_a_model_that_refuses_all_of_it(tmp_path: Path) -> None:
    def script(request: dict[str, Any], before: int) -> Answer:
        for name in ("openai, max_tokens", "openai, temperature", "openai, logprobs"):
            refusal = REFUSALS[f"{name} of a reasoning model"]
            if refusal.if_sent in request:
                return refusal.answer
        return says("A")

    with Stub(script) as stub:
        assert shares(verdicts_on(judge(tmp_path, stub.url), item(0), item(1))) == [1.0, 1.0]
        requests = [request for _, request, _ in stub.sent]
    assert len(requests) == 5
    assert requests[-1].keys() == {"model", "messages", "max_completion_tokens"}


TOO_LONG = (
    fault(400, "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens."),
    fault(400, "'max_tokens' is not valid: 16 is too large for a maximum context length of 10 tokens."),
)


@pytest.mark.parametrize("answer", TOO_LONG)
def test_a_question_that_is_too_long_is_no_refusal_of_max_tokens(answer: Answer, tmp_path: Path) -> None:
    with Stub(lambda request, before: answer) as stub:
        (verdict,) = verdicts_on(judge(tmp_path, stub.url), item())
        assert (verdict.reason, len(stub.sent)) == ("no answer: HTTP 400", 1)


def test_what_was_judged_and_comes_back_in_an_error_is_no_refusal(tmp_path: Path) -> None:
    echo = {"detail": [{"loc": ["body", "messages"], "msg": "not allowed", "input": "set the temperature, logprobs"}]}
    with Stub(lambda request, before: raw(422, echo)) as stub:
        verdicts_on(judge(tmp_path, stub.url), item())
        assert len(stub.sent) == 1


def test_a_parameter_of_the_users_own_is_not_left_out_but_named(tmp_path: Path) -> None:
    refused = fault(400, "Unrecognized request argument supplied: reasoning_effort")
    with Stub(lambda request, before: refused if "reasoning_effort" in request else says("A")) as stub:
        with pytest.raises(UserError, match="does not accept reasoning_effort") as caught:
            verdicts_on(judge(tmp_path, stub.url, reasoning_effort="low"), item(0), item(1))
        assert caught.value.where == "judge.reasoning_effort" and len(stub.sent) == 1


def test_a_rejected_key_is_still_a_rejected_key(tmp_path: Path) -> None:
    with (
        Stub(lambda request, before: fault(403, "Your project is not allowed to use this model")) as stub,
        pytest.raises(UserError, match="rejects the key"),
    ):
        verdicts_on(judge(tmp_path, stub.url), item())
