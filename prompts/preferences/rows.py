"""The two tables of preference data, row by row. In both a prompt is one string, as `icr.base.conversation` has it."""

from __future__ import annotations

from typing import Literal, TypedDict

from icr.rows import make_schema

Kind = Literal["pairs", "ratings"]


class PairRow(TypedDict):
    """Two responses to one prompt, of which people or a model prefer one."""

    id: str
    lang: str
    prompt: str
    chosen: str
    rejected: str
    source: str
    """The file or data set that it comes from."""
    group: str
    """The prompt or document: what is drawn together, and stays together in a split."""
    margin: float | None
    """How much better the chosen one is, in the source's unit; None where it does not say."""


class RatingRow(TypedDict):
    """A response with a label."""

    id: str
    lang: str
    prompt: str
    """"" where the source has the response alone."""
    response: str
    label: int
    """1 is good, 0 is not."""
    source: str
    group: str


PAIRS = make_schema(PairRow)
RATINGS = make_schema(RatingRow)
Row = PairRow | RatingRow
