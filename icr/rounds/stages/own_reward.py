"""A custom reward: one class in one file outside the package; docs/reward.md shows one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypedDict, cast

from icr.base.conversation import Conversation, load_conversation, show_conversation
from icr.base.plugins import Own

OWN = Own("reward.kind", "rewards", "docs/reward.md")


class GivenRow(TypedDict):
    """One response, as a custom reward sees it."""

    prompt_id: str
    lang: str
    """Two-letter code (ISO 639-1) of the prompt's language."""
    sample: int
    """From 0; prompt_id, lang and sample together name a response."""
    prompt: str
    """x^ℓ, as asked: an instruction as it is, of a longer conversation every turn under its role."""
    english: str
    """x^en, likewise."""
    messages: Conversation
    """x^ℓ as a list of {role, content}; of an instruction, a list of one."""
    english_messages: Conversation
    """x^en, likewise."""
    response: str
    """Without white space around it."""
    token_ids: list[int]
    """As sampled by the policy, its end-of-turn token included."""
    finish_reason: str
    """`stop` where it ended by itself, `length` where it was cut off."""


class OwnReward(Protocol):
    """What a custom class must have. It is created without arguments, once in each worker process."""

    def rewards(self, rows: list[GivenRow]) -> Sequence[float]:
        """A finite number per row, in their order; higher is better. The length penalty comes off afterwards.

        The method is called again and again, each time with all responses to some prompts, in any order of calls and
        maybe in several processes; a row's reward must depend on nothing but the call's rows.
        """


def make_rows(rows: Iterable[Mapping[str, object]]) -> list[GivenRow]:
    """Rows of `icr.rounds.stages.measure.TEXTS` as the user's class gets them."""
    made = []
    for row in rows:
        prompt, english = load_conversation(str(row["prompt"])), load_conversation(str(row["english"]))
        texts = {"prompt": show_conversation(prompt), "english": show_conversation(english)}
        made.append({**row, **texts, "messages": prompt, "english_messages": english})
    return cast("list[GivenRow]", made)


def call(reward: OwnReward, name: str, rows: list[GivenRow]) -> list[float]:
    """The rewards of responses by the class named `name`.

    Raises:
        UserError: the method fails, or does not return one finite number per row.
    """
    return OWN.call(reward, name, rows, _name_row)


def _name_row(row: GivenRow) -> str:
    return f"prompt_id {row['prompt_id']}, language {row['lang']}, sample {row['sample']}"
