"""The endpoint judge: any OpenAI-compatible chat completions API, many questions at once, each paid for once.

The key comes from OPENAI_API_KEY alone. It is in no message, file or log: whatever an endpoint says is searched for
it before it is shown.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import time
from typing import Any
from urllib.parse import urlsplit

import openai
from pydantic import ValidationError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from eval.cache import Cache, question_key
from eval.judge import Comparison, Verdict, judge_prompt
from eval.reply import Reply, read_reply
from icr.errors import UserError
from icr.progress import Reporter, Silent

DEFAULT_ENDPOINT = "https://api.openai.com/v1"
PARAMS: dict[str, Any] = {"temperature": 0.0, "max_tokens": 16, "logprobs": True, "top_logprobs": 5}
FAILURES_IN_A_ROW = 20
"""Questions that end without an answer, one after the other, until the endpoint is taken to be down."""
LONGEST_WAIT = 300.0
"""Seconds. An endpoint that asks for more is not waited for."""


@dataclass(frozen=True)
class Patience:
    """How long one question is tried."""

    attempts: int = 6
    first_wait: float = 1.0
    """Seconds; waits are drawn below a bound that doubles with each attempt."""
    timeout: float = 120.0
    """Seconds from a question to the last byte of its answer."""


class BrokenAnswer(Exception):
    """A reply with status 200 that is no chat completion. It is asked for again, like a server error."""


class EndpointJudge:
    """Judges through chat completions. Uses the label's log-probs when the endpoint returns them, else its text."""

    shard_size = 256

    def __init__(
        self,
        model: str,
        cache: Path,
        *,
        base_url: str | None = None,
        concurrency: int = 16,
        patience: Patience = Patience(),
        reporter: Reporter | None = None,
    ) -> None:
        """Reads OPENAI_API_KEY; raises UserError when it is unset and the endpoint is not on this machine."""
        self.name = f"openai: {model}"
        self._model, self._concurrency, self._patience = model, concurrency, patience
        self._base_url = base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_ENDPOINT
        self._key = _key_for(self._base_url)
        self._cache = Cache(cache)
        self._reporter = reporter or Silent()
        self._params = dict(PARAMS)
        self._noted: set[str] = set()
        self._answered = self._failed_in_a_row = 0

    def compare(self, comparisons: Sequence[Comparison], done: Callable[[int], None]) -> list[Verdict]:
        """Raises UserError when the endpoint cannot be used at all; answers until then are in the cache."""
        return asyncio.run(self._compare(comparisons, done))

    async def _compare(self, comparisons: Sequence[Comparison], done: Callable[[int], None]) -> list[Verdict]:
        verdicts: dict[Comparison, Verdict] = {}
        # two equal answers make the same question in both orders: it is asked once
        times = Counter(comparisons)
        todo = iter(times.items())

        async def work() -> None:
            for comparison, count in todo:  # the workers share the iterator
                verdicts[comparison] = await self._verdict(client, comparison)
                done(count)

        client = openai.AsyncOpenAI(
            api_key=self._key, base_url=self._base_url, max_retries=0, timeout=self._patience.timeout
        )
        try:
            async with client, asyncio.TaskGroup() as group:
                for _ in range(min(self._concurrency, len(times))):
                    group.create_task(work())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [verdicts[comparison] for comparison in comparisons]

    async def _verdict(self, client: openai.AsyncOpenAI, comparison: Comparison) -> Verdict:
        messages = [{"role": "user", "content": judge_prompt(comparison)}]
        key = question_key(self._model, PARAMS, messages)
        kept = self._cache.get(key)
        if kept is None:
            try:
                reply = await self._ask(client, messages)
            except (openai.APIError, BrokenAnswer, TimeoutError) as error:
                return self._failure(error)
            self._cache.put(key, reply.model_dump_json())
            self._answered, self._failed_in_a_row = self._answered + 1, 0
        else:
            reply = Reply.model_validate_json(kept)
        if reply.choices[0].logprobs is None:
            self._note_once("the judge's endpoint returns no label probabilities: verdicts are read from its text")
        return read_reply(reply)

    async def _ask(self, client: openai.AsyncOpenAI, messages: list[dict[str, str]]) -> Reply:
        retrying = AsyncRetrying(
            stop=lambda state: self._enough(state),
            wait=lambda state: self._wait(state),
            retry=retry_if_exception(_is_transient),
            reraise=True,
        )
        while True:
            sent = dict(self._params)
            try:
                return await retrying(self._ask_once, client, messages, sent)
            except openai.BadRequestError as error:
                refused = _refused_parameter(error, sent)
                if refused is None:
                    raise
                self._do_without(refused)

    async def _ask_once(
        self, client: openai.AsyncOpenAI, messages: list[dict[str, str]], params: dict[str, Any]
    ) -> Reply:
        async with asyncio.timeout(self._patience.timeout):
            raw = await client.chat.completions.with_raw_response.create(
                model=self._model,
                messages=messages,  # type: ignore[arg-type]
                **params,
            )
        try:
            return Reply.model_validate_json(raw.content)
        except ValidationError as error:
            raise BrokenAnswer(f"no chat completion ({error.errors()[0]['msg']})") from None

    def _enough(self, state: RetryCallState) -> bool:
        asked = _retry_after(_error_of(state))
        return stop_after_attempt(self._patience.attempts)(state) or (asked is not None and asked > LONGEST_WAIT)

    def _wait(self, state: RetryCallState) -> float:
        """Never shorter than the endpoint asked for; the random part keeps workers from coming back together."""
        jitter = wait_random_exponential(multiplier=self._patience.first_wait, max=60)(state)
        return (_retry_after(_error_of(state)) or 0.0) + jitter

    def _do_without(self, parameter: str) -> None:
        dropped = [parameter, *(["top_logprobs"] if parameter == "logprobs" else [])]
        for name in dropped:
            self._params.pop(name, None)
        self._note_once(f"the judge's endpoint does not know {parameter}: asked without it")

    def _note_once(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            self._reporter.note(text)

    def _failure(self, error: Exception) -> Verdict:
        """An unscored verdict when this one question failed; a UserError when no question can succeed."""
        self._failed_in_a_row += 1
        said = self._said(error)
        where = f"judge.base_url: {_shown(self._base_url)}"
        resume = "the same command continues; what was judged is kept"
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            raise UserError(f"the judge's endpoint refuses the key: {said}", where=where,
                            do=f"set OPENAI_API_KEY to a key that is valid there; {resume}") from None  # fmt: skip
        if isinstance(error, openai.NotFoundError):
            raise UserError(f"the judge's endpoint does not know the model {self._model}: {said}", where=where,
                            do="check judge.model and judge.base_url (it usually ends in /v1)") from None  # fmt: skip
        if isinstance(error, openai.RateLimitError) and error.code == "insufficient_quota":
            raise UserError(f"the judge's account is used up: {said}", where=where, do=f"top it up; {resume}") from None
        never_reached = isinstance(error, openai.APIConnectionError) and not self._answered
        if never_reached or self._failed_in_a_row >= FAILURES_IN_A_ROW:
            raise UserError(f"the judge's endpoint does not answer: {said}", where=where,
                            do=f"see that it runs and can be reached; {resume}") from None  # fmt: skip
        return Verdict(None, _kind(error), said)

    def _said(self, error: Exception) -> str:
        """What went wrong in one line, without the key."""
        text = f"{error}" or type(error).__name__
        if isinstance(error, openai.APIStatusError):
            text = f"HTTP {error.status_code}: {error.message}"
        elif isinstance(error, openai.APITimeoutError | TimeoutError):
            text = f"nothing within {self._patience.timeout:g} s"
        return " ".join(text.replace(self._key, "***").split())[:200]


def _kind(error: Exception) -> str:
    """The reason of a question that stayed without an answer, as it is counted."""
    if isinstance(error, openai.APIStatusError):
        return f"no answer: HTTP {error.status_code}"
    if isinstance(error, openai.APITimeoutError | TimeoutError):
        return "no answer in time"
    return "no readable answer" if isinstance(error, BrokenAnswer) else "no answer: connection lost"


def _key_for(base_url: str) -> str:
    address = urlsplit(base_url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise UserError("the judge's endpoint is no web address", where=f"judge.base_url: {_shown(base_url)}",
                        do="write it like http://localhost:8000/v1")  # fmt: skip
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if key:
        return key
    if _is_loopback(address.hostname):
        return "none-needed"
    raise UserError("there is no key for the judge's endpoint", where=f"judge.base_url: {_shown(base_url)}",
                    do="export OPENAI_API_KEY=… (any word, when this endpoint needs none)")  # fmt: skip


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _shown(url: str) -> str:
    """The address without user, password and query, which may be secrets, too."""
    address = urlsplit(url)
    return f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path}"


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


def _refused_parameter(error: openai.BadRequestError, sent: dict[str, Any]) -> str | None:
    """The parameter that the endpoint says it does not support, if it is one that we can do without."""
    text = f"{error.message} {error.param or ''}".lower()
    if not any(word in text for word in ("support", "unknown", "unrecognized", "not permitted", "not allowed")):
        return None
    return next((name for name in ("logprobs", "max_tokens", "temperature") if name in sent and name in text), None)
