"""Questions through a Batch API: what was submitted before is collected, and the rest is submitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from icr.endpoint.batch import Batches
from icr.endpoint.cache import Cache
from icr.endpoint.chat import Ask, Chat, NoAnswer
from icr.endpoint.limits import Meter
from icr.endpoint.prices import Usage, guess_prompt_tokens
from icr.endpoint.reply import Reply

FEW = 20
"""So many questions are asked one by one: a batch may take a day."""


@dataclass
class Batching:
    """Puts answers of batches into a cache, from which they are taken as any others."""

    batches: Batches
    chat: Chat
    meter: Meter
    cache: Cache
    key: Callable[[Ask], str]
    kept: Callable[[str], Reply | None]
    fresh: set[str] = field(default_factory=set)
    """Keys of answers that were paid for here, and so were in no cache before."""

    def ask(self, asks: Sequence[Ask], probe: Callable[[Ask], None]) -> None:
        """Return when no more than a FEW of these questions can be asked in a batch.

        What a batch has not answered is left: it is asked one by one. What the budget has no room for is left as well.

        Args:
            probe: asks one question at once. Its answer tells what the endpoint takes and what answers cost.

        Raises:
            UserError: as `Batches.submit` and `collect`.
        """
        by_key = {self.key(ask): ask for ask in asks}
        self._collect(by_key)
        failed: set[str] = set()
        while True:
            todo = {key: ask for key, ask in by_key.items() if key not in failed and self.kept(key) is None}
            if len(todo) <= FEW:
                return
            if not self.chat.answered:
                first = next(iter(todo))
                probe(todo[first])
                failed.add(first)
                self.fresh.add(first)
                continue
            guesses = [replace(self.chat.guess(ask), batched=True) for ask in todo.values()]
            room = self.meter.fits(guesses)
            if room <= FEW:
                return
            self.batches.submit({key: self.chat.body(todo[key]) for key in list(todo)[:room]})
            failed |= self._collect(by_key)

    def _collect(self, by_key: dict[str, Ask]) -> set[str]:
        """Wait for all batches; returns the keys that they have not answered."""
        failed: set[str] = set()

        def heard(key: str, reply: Reply | NoAnswer) -> None:
            if isinstance(reply, NoAnswer):
                failed.add(key)
                return
            self._pay(reply, by_key.get(key))
            self.cache.put(key, reply.model_dump_json())
            self.fresh.add(key)

        self.batches.collect(heard)
        return failed

    def _pay(self, reply: Reply, ask: Ask | None) -> None:
        usage = Usage.of(reply.usage)
        if usage is None:
            text = reply.choices[0].message.content or ""
            prompt = self.chat.guess(ask).prompt if ask else 0
            usage = Usage(prompt, guess_prompt_tokens([text]), batched=True)
            reply.usage = {"prompt_tokens": usage.prompt, "completion_tokens": usage.completion, "guessed": True,
                           "batched": True}  # fmt: skip
        self.meter.add(usage, self.chat.guess(ask) if ask else usage)
