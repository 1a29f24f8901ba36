"""An endpoint: any OpenAI-compatible chat completions API, many questions at once, each paid for once.

The key comes from OPENAI_API_KEY alone. It is in no message, file or log: whatever an endpoint says is searched for
it before it is shown.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from icr.base.progress import Reporter, Silent
from icr.base.secrets import hide
from icr.config.schema import Endpoint as Settings
from icr.endpoint import remembered
from icr.endpoint.address import Address
from icr.endpoint.batch import POLL, Batches
from icr.endpoint.batched import FEW, Batching
from icr.endpoint.cache import Cache, Lookup, Writer, question_key
from icr.endpoint.chat import FIRST_WAIT, Ask, Chat, NoAnswer, own_parameters, system_messages
from icr.endpoint.limits import BudgetUsedUp, Meter
from icr.endpoint.prices import Cost, Estimate, Price, Usage, find_price
from icr.endpoint.reply import Reply
from icr.endpoint.shared import SharedCache
from icr.endpoint.work import Heard, Work

__all__ = ["Ask", "Endpoint", "NoAnswer"]

OBJECTS_TO_COLLECT = 50_000
LOOKED_UP = 16
"""Most questions that are looked up in the cache at once, and at most a quarter of those that are under way."""


class Endpoint:
    """Asks one model of an OpenAI-compatible endpoint. What is in the cache is not asked again.

    Two processes may share a cache: the second one goes through its questions from their end, and both look into the
    cache right before they ask. So a question is paid for twice only when both have it on its way at the same moment:
    as many as one has under way at a time, where they meet, and those that it looks up ahead.
    """

    def __init__(
        self,
        model: str,
        cache: Path,
        settings: Settings,
        reporter: Reporter | None = None,
        *,
        shared: Path | None = None,
        ledger: Path | None = None,
        first_wait: float = FIRST_WAIT,
        dry: bool = False,
        batch: bool = False,
    ) -> None:
        """Reads OPENAI_API_KEY.

        Args:
            cache: sqlite file of answers; made when absent.
            shared: sqlite file of the user's answers of all evaluations; refusals are remembered beside it.
            ledger: file of what the command spends of its budget; None: this object's requests are all.
            first_wait: seconds; the first wait after a fault is drawn below it.
            dry: for `estimate` alone. No key is needed and no file is made.
            batch: more than a few questions are asked through the Batch API.

        Raises: UserError: the key is missing and the endpoint is not on this machine, the prices or the cache cannot be
            read, or there is a budget and the price is unknown.
        """
        self.model, self._noted = model, set[str]()
        self.reporter: Reporter = reporter or Silent()
        address = Address.find(settings, key_needed=not dry)
        self._price = find_price(model, address.base, settings.prices)
        self._meter = Meter(model, self._price, settings, ledger)
        self._folder = cache.parent
        own = cache if cache.exists() or not dry else Path(":memory:")
        # a change of the config's address is seen by who owns the folder; one of the environment's is not
        server = hide(address.url) if address.by_environment else ""
        if shared is not None and (shared.exists() or not dry):
            self._cache: Cache = SharedCache(own, shared, hide(address.url), self.note_once, server)
        else:
            self._cache = Cache(own, server)
        self._concurrency = settings.concurrency
        self._more, self._system = own_parameters(settings), system_messages(settings)
        memory = None
        if shared is not None and not dry and remembered.is_remembered(address):
            memory = remembered.Memory(shared.parent, hide(address.url), model)
        self._chat = Chat(model, address, settings, self._meter, self.note_once, first_wait, memory)
        self._batch, self._batching = batch, None
        if batch and not dry:
            where = f"{settings.named('base_url')}: {address.shown}"
            record, wait = cache.with_suffix(".batches.json"), POLL * first_wait
            batches = Batches(address, settings, where, record, self._tell, wait)
            self._batching = Batching(batches, self._chat, self._meter, self._cache, self._key, self._kept)
        if self._price is None and not address.is_here and not dry:
            self.note_once(f"the price of {model} at {address.shown} is unknown: tokens are counted, cost is not "
                           f"(set it with {settings.named('prices')})")  # fmt: skip

    @property
    def cost(self) -> Cost:
        """Of this object's own requests."""
        return self._meter.cost

    def ask(
        self, asks: Sequence[Ask], done: Callable[[int], None], heard: Heard | None = None
    ) -> list[Reply | NoAnswer]:
        """One reply per question, in order; `done(k)` is called when k more of them are there.

        Args:
            asks: looked at one by one as their turn comes, so they may be made then.
            heard: called with each reply as it comes, once it is on disk.

        Raises:
            UserError: the endpoint cannot be used at all, or the budget is used up; answers until then are in the
                cache.
        """
        work = Work(asks, done, heard)
        self._asked = len(asks)
        if asks:
            with _alone(self._folder) as alone, _seldom_collected():
                if self._batching and alone:
                    self._batching.ask(asks, self._ask_one)
                asyncio.run(self._ask_all(work, range(len(asks)) if alone else reversed(range(len(asks)))))
        return [work.replies[number] for number in range(len(asks))]

    def _ask_one(self, ask: Ask) -> None:
        asyncio.run(self._ask_all(Work([ask], lambda more: None, None), [0]))

    def _tell(self, text: str, *, lasting: bool) -> None:
        """A line for the user, or what is shown beside the progress."""
        (self.reporter.note if lasting else self.reporter.status)(text)
        self.reporter.progress(0, self._asked)  # the status is sent with it

    def estimate(self, asks: Sequence[Ask]) -> Estimate:
        """Expected requests, tokens and cost; nothing is sent."""
        unlike = list(dict.fromkeys(asks))
        missing = [ask for ask in unlike if self._cache.get(self._key(ask)) is None]
        cost = Cost(usd=None if self._price is None else 0.0)
        for ask in missing:
            guess = self._chat.guess(ask)
            cost.add(replace(guess, batched=True) if self._batch and len(missing) > FEW else guess, self._price)
        return Estimate(len(missing), len(unlike) - len(missing), cost.prompt_tokens, cost.completion_tokens, cost.usd)

    def cost_of(self, asks: Sequence[Ask] | None = None) -> Cost:
        """The cost of the answers in the cache, including those of earlier commands; at today's prices.

        Args:
            asks: only the answers to these; all when None.
        """
        if asks is None:
            return _sum(self._cache.all(), self._price)
        kept = (self._cache.get(self._key(ask)) for ask in dict.fromkeys(asks))
        return _sum((answer for answer in kept if answer is not None), self._price)

    def note_once(self, text: str) -> None:
        """One line for the user, the first time only."""
        if text not in self._noted:
            self._noted.add(text)
            self.reporter.note(text)

    def _key(self, ask: Ask) -> str:
        again = {"again": ask.again} if ask.again else {}
        return question_key(self.model, ask.params | self._more | again, [*self._system, *ask.json()])

    def find(self, ask: Ask) -> Reply | None:
        """The answer that is in the cache."""
        return self._kept(self._key(ask))

    def _kept(self, key: str) -> Reply | None:
        return self._read(key, self._cache.get(key))

    def _read(self, key: str, answer: str | None) -> Reply | None:
        """An answer of the cache. One that cannot be read, as a damaged disk leaves it, is requested again."""
        try:
            return None if answer is None else Reply.model_validate_json(answer)
        except ValidationError:
            self._cache.drop(key)
            return None

    async def _ask_all(self, work: Work, order: Iterable[int]) -> None:
        todo, writer = iter(order), Writer(self._cache)
        lookup = Lookup(self._cache, min(LOOKED_UP, max(1, self._concurrency // 4)))
        ready: deque[tuple[Ask, str]] = deque()
        used_up: list[BudgetUsedUp] = []
        soon = asyncio.get_running_loop().call_soon

        def prepare() -> None:
            for number in todo:
                ask = work.begin(number)
                if ask is not None:
                    ready.append((ask, self._key(ask)))
                    return

        async def worker(most: float = math.inf) -> None:
            """Ask what is ready until nothing is left, or `most` requests were sent."""
            sent = 0
            while sent < most:
                if not ready:
                    prepare()
                if not ready:
                    return
                ask, key = ready.popleft()
                kept = self._read(key, lookup.find(key, (following for _, following in ready)))
                if kept is not None:
                    self.cost.cached += not (self._batching and key in self._batching.fresh)
                    work.settle(ask, kept)
                    continue
                sent += 1
                soon(prepare)  # the next question is made while answers are on their way
                try:
                    reply = await self._chat.complete(client, ask)
                except BudgetUsedUp as error:
                    used_up.append(error)  # what is under way is paid for, and so waited for
                    return
                if isinstance(reply, NoAnswer):
                    work.settle(ask, reply)
                else:
                    writer.put(key, reply.model_dump_json(), partial(work.keep, ask, reply))

        try:
            async with self._chat.open() as client, asyncio.TaskGroup() as group:
                if not self._chat.answered:  # the first answer tells what the endpoint takes, and what answers cost
                    for _ in range(self._concurrency):
                        soon(prepare)
                    await worker(most=1)
                for _ in range(min(self._concurrency, len(work.asks))):
                    group.create_task(worker())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            writer.flush()
        if used_up:
            raise used_up[0]


def _sum(answers: Iterator[str], price: Price | None) -> Cost:
    cost = Cost(usd=None if price is None else 0.0)
    for answer in answers:
        usage = Usage.of(json.loads(answer).get("usage"))
        if usage is not None:
            cost.add(usage, price)
    return cost


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Python's search for garbage goes through all objects there are, and holds up all requests that long: a tenth of
    a second each time. What was there before is left alone, and what comes is looked at less often."""
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(OBJECTS_TO_COLLECT, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Whether no other process uses a cache in this folder now; the next process that checks sees that one does."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield True
        except BlockingIOError:
            yield False
    finally:
        os.close(handle)
