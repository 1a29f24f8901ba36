"""A custom reward: one class in one file outside the package; docs/reward.md shows one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypedDict

from icr.base.plugins import Own

OWN = Own("reward.kind", "rewards", "docs/reward.md")


class GivenRow(TypedDict):
    """One response, as a custom reward sees it."""

    prompt_id: str
    lang: str
    sample: int
    prompt: str
    """x^ℓ, as asked."""
    english: str
    """x^en."""
    response: str
    """Without white space around it."""
    token_ids: list[int]
    finish_reason: str
    """`stop` or `length`."""


class OwnReward(Protocol):
    """What a user's class has to be. It is made without arguments, once in each worker process."""

    def rewards(self, rows: list[GivenRow]) -> Sequence[float]:
        """A finite number per row, in their order; more is better. The length penalty comes off afterwards.

        The method is called again and again, each time with all responses to some prompts, in any order of calls and
        maybe in several processes; a row's reward must depend on nothing but the call's rows.
        """


def call(reward: OwnReward, name: str, rows: list[GivenRow]) -> list[float]:
    """The rewards of responses by the class that `name` names.

    Raises:
        UserError: the method fails, or does not give one finite number per row.
    """
    return OWN.call(reward, name, rows, _name_row)


def _name_row(row: GivenRow) -> str:
    return f"prompt_id {row['prompt_id']}, language {row['lang']}, sample {row['sample']}"
