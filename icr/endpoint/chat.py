"""One chat completion over HTTP: tried again while that can help, and what its failures mean."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cached_property
from time import time
from typing import Protocol

import openai
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from icr.base.errors import UserError
from icr.config.schema import Endpoint as Settings
from icr.endpoint.address import Address
from icr.endpoint.client import ChatClient, openai_client
from icr.endpoint.failures import is_transient, name_failure
from icr.endpoint.limits import Meter, Rates
from icr.endpoint.prices import Usage, guess_prompt_tokens
from icr.endpoint.refusals import Dialect, find_refused
from icr.endpoint.remembered import Memory
from icr.endpoint.reply import BrokenAnswer, Reply, read_completion, usage_in

TOP_LOGPROBS = 5
SCHEMA_NAME = "verdict"
"""Endpoints want a name for a schema; it counts for nothing."""
FAILURES_IN_A_ROW = 20
"""After so many questions in a row without an answer, the endpoint counts as down."""
LONGEST_WAIT = 300.0
"""Seconds. An endpoint that asks for more is not waited for."""
FIRST_WAIT = 1.0
"""Seconds; waits are drawn below a bound that doubles with each attempt."""
MINUTE = 70
"""First waits for which a limit of requests is waited out, as most limits are a minute's."""
CODE = re.compile(r"^Error code: \d+( - |$)")
"""What the package puts before an endpoint's words, or in their place."""
RESUME = "rerun the same command to continue; answers received so far are kept"


@dataclass(frozen=True)
class Ask:
    """One chat completion to ask for."""

    messages: tuple[tuple[str, str], ...]
    """(role, content) each."""
    max_tokens: int
    temperature: float = 0.0
    label_logprobs: bool = False
    """Ask for the log-probs of the first tokens' alternatives."""
    schema: str = ""
    """JSON schema that the answer has to follow, as text; "" for free text."""
    again: int = 0
    """How often the same was asked before, where its answer is to be another one."""

    @property
    def params(self) -> dict[str, object]:
        params: dict[str, object] = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        if self.label_logprobs:
            params |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        if self.schema:
            form = {"name": SCHEMA_NAME, "strict": True, "schema": json.loads(self.schema)}
            params["response_format"] = {"type": "json_schema", "json_schema": form}
        return params

    @cached_property
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


def own_parameters(settings: Settings) -> dict[str, object]:
    """What the user has every request sent with."""
    effort = {} if settings.reasoning_effort is None else {"reasoning_effort": settings.reasoning_effort}
    return effort | settings.extra_body


def system_messages(settings: Settings) -> list[dict[str, str]]:
    """What every conversation starts with."""
    return [] if settings.system is None else [{"role": "system", "content": settings.system}]


class Notes(Protocol):
    def __call__(self, text: str) -> None:
        """One line for the user, the first time only."""


class Chat:
    """Chat completions of one model at one address."""

    def __init__(
        self,
        model: str,
        address: Address,
        settings: Settings,
        meter: Meter,
        note: Notes,
        first_wait: float,
        memory: Memory | None = None,
    ) -> None:
        """`memory`: what this endpoint has refused before; None where nothing is remembered."""
        self._model, self._address, self._openai = model, address, openai_client(address)
        self._base_url_key = settings.named("base_url")
        self._settings, self._first_wait = settings, first_wait
        self._rates = Rates(settings.requests_per_minute, settings.tokens_per_minute)
        self._meter, self._note = meter, note
        self._memory, self._dialect = memory, memory.recall() if memory else Dialect()
        self._system, self._more = system_messages(settings), own_parameters(settings)
        self.answered = self._failed_in_a_row = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[ChatClient]:
        """A client for the running event loop."""
        self._rates.begin()
        self._meter.begin()
        for line in self._memory.describe(self._dialect) if self._memory and not self.answered else ():
            self._note(line)
        async with ChatClient(self._openai, self._address, self._settings.timeout) as client:
            yield client

    def guess(self, ask: Ask) -> Usage:
        """A request's tokens, before anybody counted them."""
        if not self._system:
            return ask.guess
        own, system = ask.guess, [message["content"] for message in self._system]
        return Usage(own.prompt + guess_prompt_tokens(system), own.completion)

    async def complete(self, client: ChatClient, ask: Ask) -> Reply | NoAnswer:
        """Ask, and ask again after a fault that may pass.

        Raises:
            UserError: no question can succeed here.
        """
        try:
            reply = await self._within_limits(client, ask)
        except (openai.APIError, BrokenAnswer, TimeoutError) as error:
            return self._failure(error)
        self.answered, self._failed_in_a_row = self.answered + 1, 0
        return reply

    async def _within_limits(self, client: ChatClient, ask: Ask) -> Reply:
        set_aside = await self._meter.set_aside(self.guess(ask))
        try:
            return await self._with_known_parameters(client, ask)
        finally:
            self._meter.release(set_aside)

    async def _with_known_parameters(self, client: ChatClient, ask: Ask) -> Reply:
        while True:
            sent = self._dialect.spell(ask.params)
            try:
                return await self._retried(client, ask, sent)
            except openai.APIStatusError as error:
                self._refuse_own(error)
                # what others have been told meanwhile was sent before they knew, and is sent again
                if self._dialect.spell(ask.params) != sent:
                    continue
                changed = self._dialect.learn(error, sent)
                if changed is None:
                    raise
                self._note(changed)
                if self._memory:
                    self._memory.keep(self._dialect)

    def _refuse_own(self, error: openai.APIStatusError) -> None:
        """Raises UserError when a parameter is refused that the user has set: it is not left out on our own account."""
        refused = find_refused(error, self._more, {name: (name,) for name in self._more})
        if refused:
            key = "reasoning_effort" if refused == "reasoning_effort" else "extra_body"
            raise UserError(f"the endpoint does not accept {refused}: {self._said(error)}",
                            where=self._settings.named(key), do="remove it, or change its value") from None  # fmt: skip

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
            stop=self._enough, wait=self._wait, retry=retry_if_exception(is_transient), reraise=True
        )
        return await retrying(again)

    async def _once(self, client: ChatClient, ask: Ask, sent: Mapping[str, object]) -> Reply:
        guess = self.guess(ask)
        await self._rates.wait(guess.total)
        body = self._body(ask, sent)
        try:
            async with asyncio.timeout(self._settings.timeout):
                content = await client.post(body)
        except (TimeoutError, openai.APITimeoutError):
            self._meter.lose(guess)
            raise
        try:
            reply = read_completion(content)
        except BrokenAnswer:
            self._pay(Usage.of(usage_in(content)), guess)
            raise
        usage = Usage.of(reply.usage)
        if usage is None:
            self._note("the endpoint does not count tokens: they are estimated from the texts")
            text = reply.choices[0].message.content or ""
            usage = Usage(guess.prompt, guess_prompt_tokens([text]))
            reply.usage = {"prompt_tokens": usage.prompt, "completion_tokens": usage.completion, "guessed": True}
        self._pay(usage, guess)
        return reply

    def body(self, ask: Ask) -> dict[str, object]:
        """A request as this endpoint takes it, as far as it has told."""
        return self._body(ask, self._dialect.spell(ask.params))

    def _body(self, ask: Ask, sent: Mapping[str, object]) -> dict[str, object]:
        return {"model": self._model, "messages": [*self._system, *ask.json()], **sent, **self._more}

    def _pay(self, usage: Usage | None, guess: Usage) -> None:
        if usage is not None:
            self._meter.add(usage, guess)
            self._rates.correct(guess.total, usage.total)

    def _enough(self, state: RetryCallState) -> bool:
        error = _error_of(state)
        asked = _retry_after(error)
        if asked is not None and asked > LONGEST_WAIT:
            return True
        if isinstance(error, openai.RateLimitError):
            self._note(f"the endpoint has a limit and is asked more slowly ({self._limit_keys} keep below it)")
            if asked is None and (state.seconds_since_start or 0.0) < MINUTE * self._first_wait:
                return False
        return stop_after_attempt(self._settings.attempts)(state)

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
        if isinstance(error, openai.RateLimitError) and self._failed_in_a_row >= FAILURES_IN_A_ROW:
            raise UserError(f"the endpoint's limit is reached: {said}", where=where,
                            do=f"set {self._limit_keys} to the account's limits; {RESUME}") from None  # fmt: skip
        never_reached = isinstance(error, openai.APIConnectionError) and not self.answered
        if never_reached or self._failed_in_a_row >= FAILURES_IN_A_ROW:
            raise UserError(f"the endpoint does not answer: {said}", where=where,
                            do=f"check that it runs and can be reached; {RESUME}") from None  # fmt: skip
        return NoAnswer(name_failure(error), said)

    @property
    def _limit_keys(self) -> str:
        return f"{self._settings.named('requests_per_minute')} and {self._settings.named('tokens_per_minute')}"

    def _said(self, error: Exception) -> str:
        """What went wrong in one line, without the key."""
        text = f"{error}" or type(error).__name__
        if isinstance(error, openai.APIStatusError):
            said = CODE.sub("", error.message) or "no reason is given"
            text = f"HTTP {error.status_code}: {said}"
        elif isinstance(error, openai.APITimeoutError | TimeoutError):
            text = f"no answer within {self._settings.timeout:g} s"
        return " ".join(self._address.without_key(text).split())[:200]


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


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
