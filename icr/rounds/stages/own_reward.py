"""A reward of the user's own: one class in one file outside the package; docs/reward.md shows one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from icr.base.plugins import Own
from icr.rows import Row
from prompts.load import Prompt

OWN = Own("reward.kind", "rewards", "docs/reward.md")


class OwnReward(Protocol):
    """What a user's class has to be. It is made without arguments, once in each worker process."""

    def rewards(self, rows: list[Row]) -> Sequence[float]:
        """A finite number per row, in their order; more is better. The length penalty comes off afterwards.

        Each row has `prompt_id`, `lang`, `sample`, `prompt` (x^ℓ, as asked), `english` (x^en), `response` (stripped),
        `token_ids` and `finish_reason` ("stop" or "length"). The method is called again and again, each time with all
        responses to some prompts, in any order of calls and maybe in several processes; a row's reward must depend on
        nothing but the call's rows.
        """


def call(reward: OwnReward, name: str, rows: list[Row], prompts: Mapping[tuple[str, str], Prompt]) -> list[float]:
    """The rewards of RESPONSES rows.

    Raises:
        UserError: the method fails, or does not give one finite number per row.
    """
    asked = [prompts[row["prompt_id"], row["lang"]] for row in rows]
    given = [{**row, "prompt": p.text, "english": p.english} for row, p in zip(rows, asked, strict=True)]
    return OWN.call(reward, name, given, _row_name)


def _row_name(row: Row) -> str:
    return f"prompt_id {row['prompt_id']}, language {row['lang']}, sample {row['sample']}"
