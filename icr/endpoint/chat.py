"""One chat completion over HTTP: tried again while that can help, and what its failures mean."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time
from typing import Protocol

import openai
from pydantic import ValidationError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.config.schema import Endpoint as Settings
from icr.endpoint.address import Address
from icr.endpoint.client import ChatClient, openai_client
from icr.endpoint.limits import Meter, Rates
from icr.endpoint.prices import Usage, guess_prompt_tokens
from icr.endpoint.reply import Reply

TOP_LOGPROBS = 5
FAILURES_IN_A_ROW = 20
"""After so many questions in a row without an answer, the endpoint counts as down."""
LONGEST_WAIT = 300.0
"""Seconds. An endpoint that asks for more is not waited for."""
FIRST_WAIT = 1.0
"""Seconds; waits are drawn below a bound that doubles with each attempt."""
RESUME = "rerun the same command to continue; answers received so far are kept"


class BrokenAnswer(Exception):
    """A reply with status 200 that is not a chat completion. It is requested again, as after a server error."""


@dataclass(frozen=True)
class Ask:
    """One chat completion to ask for."""

    messages: tuple[tuple[str, str], ...]
    """(role, content) each."""
    max_tokens: int
    temperature: float = 0.0
    label_logprobs: bool = False
    """Ask for the log-probs of the first tokens' alternatives."""

    @property
    def params(self) -> dict[str, object]:
        params: dict[str, object] = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        return params | ({"logprobs": True, "top_logprobs": TOP_LOGPROBS} if self.label_logprobs else {})

    @property
    def guess(self) -> Usage:
        """Its tokens, before anybody counted them; the answer's is the most that it may have."""
        return Usage(guess_prompt_tokens([content for _, content in self.messages]), self.max_tokens)

    def json(self) -> list[dict[str, str]]:
        return [{"role": role, "content": content} for role, content in self.messages]


@dataclass(frozen=True)
class NoAnswer:
    """Why a question stayed without an answer after all retries."""

    reason: str
    """One of few kinds, which are counted."""
    detail: str


class Notes(Protocol):
    def __call__(self, text: str) -> None:
        """One line for the user, the first time only."""


class Chat:
    """Chat completions of one model at one address."""

    def __init__(
        self, model: str, address: Address, settings: Settings, meter: Meter, note: Notes, first_wait: float
    ) -> None:
        self._model, self._address, self._openai = model, address, openai_client(address)
        self._base_url_key = settings.named("base_url")
        self._timeout, self._attempts, self._first_wait = settings.timeout, settings.attempts, first_wait
        self._rates = Rates(settings.requests_per_minute, settings.tokens_per_minute)
        self._meter, self._note = meter, note
        self._unknown: set[str] = set()
        """Parameters that the endpoint does not take."""
        self._answered = self._failed_in_a_row = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[ChatClient]:
        """A client for the running event loop."""
        self._rates.begin()
        self._meter.begin()
        async with ChatClient(self._openai, self._address, self._timeout) as client:
            yield client

    async def complete(self, client: ChatClient, ask: Ask) -> Reply | NoAnswer:
        """Ask, and ask again after a fault that may pass.

        Raises:
            UserError: no question can succeed here.
        """
        try:
            reply = await self._within_limits(client, ask)
        except (openai.APIError, BrokenAnswer, TimeoutError) as error:
            return self._failure(error)
        self._answered, self._failed_in_a_row = self._answered + 1, 0
        return reply

    async def _within_limits(self, client: ChatClient, ask: Ask) -> Reply:
        set_aside = await self._meter.set_aside(ask.guess)
        try:
            return await self._with_known_parameters(client, ask)
        finally:
            self._meter.release(set_aside)

    async def _with_known_parameters(self, client: ChatClient, ask: Ask) -> Reply:
        while True:
            sent = {name: value for name, value in ask.params.items() if name not in self._unknown}
            try:
                return await self._retried(client, ask, sent)
            except openai.BadRequestError as error:
                refused = _refused_parameter(error, sent)
                if refused is None:
                    raise
                self._unknown.update([refused, *(["top_logprobs"] if refused == "logprobs" else [])])
                self._note(f"the endpoint does not support {refused}: requests are sent without it")

    async def _retried(self, client: ChatClient, ask: Ask, sent: Mapping[str, object]) -> Reply:
        try:
            return await self._once(client, ask, sent)
        except Exception as error:
            failed = [error]

        async def again() -> Reply:
            if failed:  # the attempt that is behind us counts as the first
                raise failed.pop()
            return await self._once(client, ask, sent)

        retrying = AsyncRetrying(
            stop=self._enough, wait=self._wait, retry=retry_if_exception(_is_transient), reraise=True
        )
        return await retrying(again)

    async def _once(self, client: ChatClient, ask: Ask, sent: Mapping[str, object]) -> Reply:
        guess = ask.guess
        await self._rates.wait(guess.total)
        async with asyncio.timeout(self._timeout):
            body = {"model": self._model, "messages": ask.json(), **sent}
            content = await client.post(body)
        try:
            reply = Reply.model_validate_json(content)
        except ValidationError as error:
            self._pay(Usage.of(_usage_in(content)), guess)
            raise BrokenAnswer(f"not a chat completion ({error.errors()[0]['msg']})") from None
        usage = Usage.of(reply.usage)
        if usage is None:
            self._note("the endpoint does not count tokens: they are estimated from the texts")
            text = reply.choices[0].message.content or ""
            usage = Usage(guess.prompt, guess_prompt_tokens([text]))
            reply.usage = {"prompt_tokens": usage.prompt, "completion_tokens": usage.completion, "guessed": True}
        self._pay(usage, guess)
        return reply

    def _pay(self, usage: Usage | None, guess: Usage) -> None:
        if usage is not None:
            self._meter.add(usage, guess)
            self._rates.correct(guess.total, usage.total)

    def _enough(self, state: RetryCallState) -> bool:
        asked = _retry_after(_error_of(state))
        return stop_after_attempt(self._attempts)(state) or (asked is not None and asked > LONGEST_WAIT)

    def _wait(self, state: RetryCallState) -> float:
        """Never shorter than the endpoint asked for; the random part keeps workers from coming back together."""
        jitter = wait_random_exponential(multiplier=self._first_wait, max=60)(state)
        return (_retry_after(_error_of(state)) or 0.0) + jitter

    def _failure(self, error: Exception) -> NoAnswer:
        """The reason when this one question failed; a UserError when no question can succeed."""
        self._failed_in_a_row += 1
        said = self._said(error)
        where = f"{self._base_url_key}: {self._address.shown}"
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            raise UserError(f"the endpoint rejects the key: {said}", where=where,
                            do=f"set OPENAI_API_KEY to a key that is valid there; {RESUME}") from None  # fmt: skip
        if isinstance(error, openai.NotFoundError):
            raise UserError(f"the endpoint does not know the model {self._model}: {said}", where=where,
                            do=f"check the model's name and {self._base_url_key} (it usually ends in /v1)"
                            ) from None  # fmt: skip
        if isinstance(error, openai.RateLimitError) and error.code == "insufficient_quota":
            raise UserError(
                f"the account has no credit left: {said}", where=where, do=f"add credit; {RESUME}"
            ) from None
        never_reached = isinstance(error, openai.APIConnectionError) and not self._answered
        if never_reached or self._failed_in_a_row >= FAILURES_IN_A_ROW:
            raise UserError(f"the endpoint does not answer: {said}", where=where,
                            do=f"check that it runs and can be reached; {RESUME}") from None  # fmt: skip
        return NoAnswer(_kind(error), said)

    def _said(self, error: Exception) -> str:
        """What went wrong in one line, without the key."""
        text = f"{error}" or type(error).__name__
        if isinstance(error, openai.APIStatusError):
            text = f"HTTP {error.status_code}: {error.message}"
        elif isinstance(error, openai.APITimeoutError | TimeoutError):
            text = f"no answer within {self._timeout:g} s"
        return " ".join(self._address.without_key(text).split())[:200]


def _kind(error: Exception) -> str:
    """The reason of a question that stayed without an answer, as it is counted."""
    if isinstance(error, openai.APIStatusError):
        return f"no answer: HTTP {error.status_code}"
    if isinstance(error, openai.APITimeoutError | TimeoutError):
        return "no answer in time"
    return "no readable answer" if isinstance(error, BrokenAnswer) else "no answer: connection lost"


def _usage_in(content: bytes) -> Fields | None:
    """The usage in a reply that is otherwise not a chat completion: it was paid for as well."""
    try:
        usage = json.loads(content)["usage"]
    except (ValueError, TypeError, KeyError):
        return None
    return usage if isinstance(usage, dict) else None


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, openai.RateLimitError) and error.code == "insufficient_quota":
        return False
    if isinstance(error, openai.APIStatusError):
        return error.status_code in (408, 409, 429) or error.status_code >= 500
    return isinstance(error, openai.APIConnectionError | BrokenAnswer | TimeoutError)


def _retry_after(error: BaseException | None) -> float | None:
    """Seconds that the reply's Retry-After asks for: a number, or a date."""
    value = error.response.headers.get("retry-after") if isinstance(error, openai.APIStatusError) else None
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except ValueError:
        return None


def _refused_parameter(error: openai.BadRequestError, sent: Mapping[str, object]) -> str | None:
    """The parameter that the endpoint says it does not support, if it is one that we can do without."""
    text = f"{error.message} {error.param or ''}".lower()
    if not any(word in text for word in ("support", "unknown", "unrecognized", "not permitted", "not allowed")):
        return None
    return next((name for name in ("logprobs", "max_tokens", "temperature") if name in sent and name in text), None)
