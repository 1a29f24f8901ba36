"""What answers cost: the API's own count of tokens, times a table of prices that the user can override."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from genai_prices import Usage as PricedUsage
from genai_prices import calc_price
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from icr.base.errors import UserError
from icr.base.yaml_text import read_yaml
from icr.config.values import NonNegative

BYTES_PER_TOKEN = 3
TOKENS_PER_MESSAGE = 8
BATCHED = 0.5
"""Share of the price that an answer costs through a Batch API: OpenAI's, and of others that have one."""
MOST_TOKENS = 10_000_000
"""An answer that claims more is not believed."""


@dataclass(frozen=True)
class Usage:
    """Tokens of one answer."""

    prompt: int
    completion: int
    cached: int = 0
    """Of the prompt's tokens, those that the provider had kept; some take less for them."""
    batched: bool = False
    """Through a Batch API, at half the price."""

    @classmethod
    def of(cls, raw: object) -> Usage | None:
        """From the `usage` of a chat completion; None if it is not given, or not numbers of tokens."""
        if not isinstance(raw, dict):
            return None
        prompt, completion = _tokens(raw.get("prompt_tokens")), _tokens(raw.get("completion_tokens", 0))
        if prompt is None or completion is None:
            return None
        details = raw.get("prompt_tokens_details")
        cached = _tokens(details.get("cached_tokens")) if isinstance(details, dict) else None
        return cls(prompt, completion, min(cached or 0, prompt), raw.get("batched") is True)

    @property
    def total(self) -> int:
        return self.prompt + self.completion


def _tokens(value: object) -> int | None:
    """A number of tokens; None for what cannot be one."""
    if isinstance(value, str):
        value = int(value) if value.isascii() and value.isdigit() and len(value) < 9 else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value <= MOST_TOKENS else None  # not a number is neither


Price = Callable[[Usage], float]
"""US dollars of one answer."""


@dataclass
class Cost:
    """What was asked, and what it cost."""

    calls: int = 0
    """Answers that were paid for."""
    cached: int = 0
    """Questions whose answers were there already. They cost nothing."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float | None = 0.0
    """None when no price is known."""

    def add(self, usage: Usage, price: Price | None) -> None:
        self.calls += 1
        self.prompt_tokens += usage.prompt
        self.completion_tokens += usage.completion
        self.usd = None if price is None or self.usd is None else self.usd + price(usage)

    def __str__(self) -> str:
        if self.usd is None:
            return f"{self.prompt_tokens + self.completion_tokens:,} tokens"
        return f"${self.usd:.2f}"


def guess_prompt_tokens(texts: Sequence[str]) -> int:
    """Tokens of a prompt before anybody counted them: a token for three bytes of UTF-8, and some for each message.

    This is on the high side on purpose: common tokenizers write four or five letters of English, three of Russian and
    one to three of Thai in a token; three bytes are 3, 1.5 and 1 of them. Old or English-only tokenizers need more for
    other scripts. Answers bring the API's own count, which replaces the guess.
    """
    return sum(len(text.encode(errors="replace")) // BYTES_PER_TOKEN + TOKENS_PER_MESSAGE for text in texts)


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid")
    input: NonNegative
    output: NonNegative


def find_price(model: str, base_url: str, table: str | None) -> Price | None:
    """The user's price of a model, else the one that `genai-prices` has for the provider at this address.

    Nothing is fetched: the known prices are those of the installed package. None if the price is unknown, as for a
    private server.

    Raises:
        UserError: `table` is not a YAML file of MODEL: {input, output}.
    """
    own = read_prices(Path(table)) if table else {}
    if model in own:
        return _with_batches(own[model])

    def known(usage: Usage) -> float:
        priced = PricedUsage(input_tokens=usage.prompt, cache_read_tokens=usage.cached, output_tokens=usage.completion)
        return float(calc_price(priced, model, provider_api_url=base_url).total_price)

    try:
        known(Usage(1, 1))
    except LookupError:
        return None
    return _with_batches(known)


def _with_batches(price: Price) -> Price:
    return lambda usage: price(usage) * (BATCHED if usage.batched else 1)


def read_prices(path: Path) -> dict[str, Price]:
    """Raises UserError if the file is missing or not YAML of MODEL: {input, output} in US dollars per million."""
    do = "write lines like `my-model: {input: 2.5, output: 10}`: US dollars per million tokens"
    try:
        document = read_yaml(path, "the file")
    except UserError as error:
        raise UserError(f"the prices cannot be read: {error.what}", where=error.where, do=do) from error
    try:
        rows = TypeAdapter(dict[str, _Row]).validate_python(document.data)
    except ValidationError as error:
        keys = tuple(map(str, error.errors()[0]["loc"]))
        line = next((f":{document.lines[keys[:i]]}" for i in range(len(keys), 0, -1) if keys[:i] in document.lines), "")
        at = f"{'.'.join(keys)}: " if keys else ""
        what = f"the prices cannot be read: {at}{error.errors()[0]['msg']}"
        raise UserError(what, where=f"{path}{line}", do=do) from None
    return {model: _own(row) for model, row in rows.items()}


def _own(row: _Row) -> Price:
    return lambda usage: (usage.prompt * row.input + usage.completion * row.output) / 1e6


@dataclass(frozen=True)
class Estimate:
    """Expected requests, tokens and cost, before anything is sent."""

    calls: int
    """Questions that have to be asked; those that differ in nothing count once."""
    cached: int
    """Questions whose answers are there already."""
    prompt_tokens: int
    """Guessed from the texts (`icr.endpoint.prices.guess_prompt_tokens`)."""
    completion_tokens: int
    """As if every answer were the longest that it may be."""
    usd: float | None
    """None when no price is known."""

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(
            self.calls + other.calls,
            self.cached + other.cached,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            None if self.usd is None or other.usd is None else self.usd + other.usd,
        )
