"""What an endpoint may be asked: requests and tokens a minute, and for how much money."""

from __future__ import annotations

import asyncio
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from aiolimiter import AsyncLimiter
from aiolimiter.leakybucket import LIMITER_REUSED_ACROSS_LOOPS_WARNING

from icr.base.errors import UserError
from icr.config.schema import Endpoint as Settings
from icr.endpoint.ledger import Ledger
from icr.endpoint.prices import Cost, Price, Usage


class BudgetUsedUp(UserError):
    """The rest of the budget may not be enough for the next request."""


class Rates:
    """Requests and tokens a minute, spread evenly: no more at once than what a second's share allows.

    A bucket of a whole minute would let through twice the limit in its first minute.
    """

    def __init__(self, requests: float | None, tokens: float | None) -> None:
        """Both a minute; None is no limit."""
        self._requests, self._tokens = _limiter(requests), _limiter(tokens)
        self._owed = 0

    def begin(self) -> None:
        """Once in every event loop."""
        self._turn = asyncio.Lock()
        # what was let through in an earlier loop counts on; nobody is left waiting there, which the warning is about
        warnings.filterwarnings("ignore", re.escape(LIMITER_REUSED_ACROSS_LOOPS_WARNING), RuntimeWarning)

    async def wait(self, tokens: int) -> None:
        """Return when a request of about this many tokens may be sent."""
        if self._requests:
            await self._requests.acquire()
        if self._tokens:
            async with self._turn:  # one after the other, or slices of many requests would finish all late
                due, self._owed = max(0, tokens + self._owed), min(0, tokens + self._owed)
                left = float(due)
                while left > 0:
                    part = min(left, self._tokens.max_rate)
                    await self._tokens.acquire(part)
                    left -= part

    def correct(self, guessed: int, used: int) -> None:
        """A request of `guessed` tokens took `used`: later ones wait so much longer, or shorter."""
        self._owed += used - guessed


def _limiter(per_minute: float | None) -> AsyncLimiter | None:
    if per_minute is None:
        return None
    return AsyncLimiter(per_minute / 60, 1) if per_minute >= 60 else AsyncLimiter(1, 60 / per_minute)


class Meter:
    """What this command's own requests cost, within its budget.

    Money for a request is set aside before it is sent, as for the longest answer that it allows, and set right by the
    API's count. So the budget is kept as far as the count of the prompt's tokens was guessed well, which is corrected
    by the answers that came; so is that of the answer's tokens, which reasoning can take beyond its limit. A request
    without an answer may be billed by a provider without our knowing, and counts as spent.
    """

    def __init__(self, model: str, price: Price | None, settings: Settings, ledger: Path | None = None) -> None:
        """Raises UserError when there is a budget and no price to keep it by.

        Args:
            ledger: file of what the command spends, this object's requests included; None: these are all.
        """
        budget = settings.budget
        if budget is not None and price is None:
            raise UserError(
                f"the budget cannot be kept: the price of the model {model} at this endpoint is unknown",
                where=f"{settings.named('budget')}: {budget:g}",
                do=f"name a file in {settings.named('prices')} with its US dollars per million tokens: "
                f"`{model}: {{input: …, output: …}}`; or remove the budget",
            )
        self.cost = Cost(usd=None if price is None else 0.0)
        self._price, self._budget, self._budget_key = price, budget, settings.named("budget")
        self._ledger = Ledger(ledger)
        self._set_aside = 0.0
        self._underguessed = self._overlong = 1.0
        """The prompt's tokens by the guess, and the answer's by its limit: at most so many times too few so far."""

    def begin(self) -> None:
        """Once in every event loop, when nothing is under way."""
        self._freed = asyncio.Event()
        self._set_aside = 0.0

    async def set_aside(self, guess: Usage) -> float:
        """Dollars for a request; waits for those under way when only they stand in its way.

        Raises:
            BudgetUsedUp: the rest of the budget may not be enough for this request.
        """
        if self._budget is None or self._price is None:
            return 0.0
        while True:
            usd = self._price(self._at_most(guess))
            spent = self._ledger.sum()
            if spent + self._set_aside + usd <= self._budget:
                break
            if not self._set_aside:
                raise BudgetUsedUp(
                    f"the budget is used up: ${spent:.4f} of ${self._budget:g} is spent, and the next request may cost "
                    f"${usd:.4f}",
                    where=f"{self._budget_key}: {self._budget:g}",
                    do=f"raise {self._budget_key} and rerun the same command; answers received so far are kept",
                )
            self._freed.clear()
            await self._freed.wait()
        self._set_aside += usd
        return usd

    def fits(self, guesses: Sequence[Usage]) -> int:
        """How many of these requests, from the first, the rest of the budget is enough for, whatever their answers."""
        if self._budget is None or self._price is None:
            return len(guesses)
        left = self._budget - self._ledger.sum() - self._set_aside
        for number, guess in enumerate(guesses):
            left -= self._price(self._at_most(guess))
            if left < 0:
                return number
        return len(guesses)

    def release(self, usd: float) -> None:
        """The request that this was set aside for has ended."""
        # sums of floats leave crumbs, and "nothing is set aside" has to be exact
        self._set_aside = self._set_aside - usd if self._set_aside - usd > 1e-12 else 0.0
        self._freed.set()

    def _at_most(self, guess: Usage) -> Usage:
        prompt, completion = guess.prompt * self._underguessed, guess.completion * self._overlong
        return replace(guess, prompt=math.ceil(prompt), completion=math.ceil(completion))

    def add(self, usage: Usage, guess: Usage) -> None:
        """An answer was paid for."""
        self.cost.add(usage, self._price)
        self._spend(usage)
        if usage.prompt > 0 and guess.prompt > 0:
            self._underguessed = max(self._underguessed, usage.prompt / guess.prompt)
        if guess.completion > 0:
            self._overlong = max(self._overlong, usage.completion / guess.completion)

    def lose(self, guess: Usage) -> None:
        """A request was sent, and no answer came in time."""
        self._spend(self._at_most(guess))

    def _spend(self, usage: Usage) -> None:
        if self._budget is not None and self._price is not None:
            self._ledger.add(self._price(usage))
