"""The four tables of a round, row by row: a prompt's responses, their rewards, translations, and pairs.

A row is a TypedDict, and its Arrow schema is made from it: `X | None` is a column that may be null, nothing else is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypedDict, get_args, get_origin, get_type_hints

import pyarrow as pa

from icr.base.files import read_rows


class Response(TypedDict):
    """What the policy answered: RUN/round-N/responses/LANG.parquet."""

    prompt_id: str
    lang: str
    sample: int
    """From 0; prompt_id, lang and sample together name a response."""
    prompt: str
    """x^ℓ, as asked: a text, or a conversation as JSON (`icr.base.conversation`)."""
    response: str
    """Without white space around it."""
    token_ids: list[int]
    """As sampled; the end-of-turn token is among them where the response ended by itself."""
    finish_reason: str
    """`stop` where it ended by itself, `length` where it was cut off."""
    prompt_ids: list[int]
    """Token ids of the prompt in the chat template, as sampled from."""


class Reward(TypedDict):
    """What a response is worth: RUN/round-N/rewards/LANG.parquet."""

    prompt_id: str
    sample: int
    policy_logp: float | None
    reference_logp: float | None
    """Sums in nats; None for kinds without log-probs."""
    length: Annotated[int, pa.int64()]
    """|y| in `reward.length_unit`."""
    reward: float | None
    """With its length penalty. None: there is none, and `dropped` says why (LIDR gives none at all)."""
    truncated: bool
    detected_lang: str | None
    """None: too short or too mixed to be sure."""
    dropped: str | None
    """What took the response out; None: nothing did."""


class Translation(TypedDict):
    """A response in another language: RUN/round-N/translations/."""

    prompt_id: str
    lang: str
    """Of the response."""
    target: str
    """The language it is translated into."""
    sample: int
    response_ids: list[int]
    """Token ids of the stripped response that was translated."""
    translation: str
    token_ids: list[int]
    """Of the translation. Both end as the response ended."""
    finish_reason: str | None
    """None: the policy was not asked."""
    failed: str | None
    """Why this is not a translation (icr.translation.REASONS); None: it is one."""


class Pair(TypedDict):
    """A preference to train on, of all languages: RUN/round-N/pairs.parquet."""

    prompt_id: str
    lang: str
    prompt: str
    """x^ℓ, as asked, as in `Response`; not the English prompt that rewards may be conditioned on."""
    chosen: str
    rejected: str
    chosen_reward: float | None
    rejected_reward: float | None
    """None for pairs that were made without rewards."""
    chosen_sample: int | None
    rejected_sample: int | None
    """None for a translation, and for pairs that a user brought."""
    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


ARROW_TYPES = {
    str: pa.string(),
    int: pa.int32(),
    float: pa.float64(),
    bool: pa.bool_(),
    list[int]: pa.list_(pa.int32()),
}


def make_schema(row: type) -> pa.Schema:
    """The Arrow schema of a TypedDict's rows. An Arrow type in `Annotated` goes before the one of ARROW_TYPES."""
    fields = []
    for name, hint in get_type_hints(row, include_extras=True).items():
        nullable = type(None) in get_args(hint)
        plain = get_args(hint)[0] if nullable else hint
        column = get_args(plain)[1] if get_origin(plain) is Annotated else ARROW_TYPES[plain]
        fields.append(pa.field(name, column, nullable=nullable))
    return pa.schema(fields)


RESPONSES = make_schema(Response)
REWARDS = make_schema(Reward)
TRANSLATIONS = make_schema(Translation)
PAIRS = make_schema(Pair)


def read_responses(path: Path) -> list[Response]:
    """The rows of one language's responses."""
    return read_rows(path)


def read_rewards(path: Path) -> list[Reward]:
    """The rows of one language's rewards."""
    return read_rows(path)


def read_translations(path: Path) -> list[Translation]:
    """The rows of the translations from one language into another."""
    return read_rows(path)


def read_pairs(path: Path) -> list[Pair]:
    """The rows of a round's pairs, of all languages."""
    return read_rows(path)


def is_empty(response: Mapping[str, object]) -> bool:
    """Whether a row of responses has no text but white space."""
    return not str(response["response"]).strip()
