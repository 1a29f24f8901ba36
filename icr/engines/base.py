"""What an engine is: requests in, completions out (equation 7)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from icr.base.progress import SILENT, Reporter


@dataclass(frozen=True)
class Request:
    """One response to sample: the templated prompt, and a seed that belongs to this response alone."""

    prompt_ids: list[int]
    seed: int


@dataclass(frozen=True)
class Completion:
    """What an engine returns. When `finish_reason` is "stop", the last of `token_ids` are what ended it: one token, or
    those of a text."""

    token_ids: list[int]
    finish_reason: str


@dataclass(frozen=True)
class Stops:
    """What ends an answer."""

    ids: tuple[int, ...]
    """Tokens, the first one being what answers are trained to end with."""
    texts: tuple[str, ...] = ()
    """Texts that are more than one token, or another one in every place."""


@dataclass(frozen=True)
class Decoding:
    temperature: float
    top_p: float
    max_tokens: int
    stops: Stops | None = None
    """None: the model's own ends, as `icr.engines.stops.find_stops` has them without settings."""


class Engine(Protocol):
    """A model that samples. It may be given other weights of the same architecture without being built again.

    Only the requests and the decoding count: sampling habits in a checkpoint's generation_config.json do not, and ids
    that the tokenizer does not have (padding rows of the embedding) are never sampled.
    """

    name: str

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, reporter: Reporter = SILENT
    ) -> list[Completion]:
        """One completion per request, in order; `reporter` counts those that are done, and their tokens."""

    def score(self, token_ids: Sequence[int]) -> float:
        """The sum of log-probs of all tokens but the first, in nats: what a scorer is compared with."""

    def reload(self, model: str) -> None:
        """Take the weights of another folder; what was cached of the old ones is forgotten."""

    def rest(self) -> None:
        """Give the device's memory back until the next call."""

    def close(self) -> None:
        """Give everything back; the engine is not called again."""


def request_seed(seed: int, round_number: int, lang: str, prompt_id: str, sample: int) -> int:
    """A response's randomness depends on these five and on nothing else that runs."""
    key = "\x1f".join((str(seed), str(round_number), lang, prompt_id, str(sample)))
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 1
