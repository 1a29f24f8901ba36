"""A reward of the user's own: one class in one file outside the package; docs/reward.md shows one."""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping, Sequence
from typing import Protocol

from icr.errors import UserError
from icr.imports import load_class
from icr.pairs import Row
from prompts.load import Prompt

GUIDE = "docs/reward.md shows one"


class OwnReward(Protocol):
    """What a user's class has to be. It is made without arguments, once in each worker process."""

    def rewards(self, rows: list[Row]) -> Sequence[float]:
        """A finite number per row, in their order; more is better. The length penalty comes off afterwards.

        Each row has `prompt_id`, `lang`, `sample`, `prompt` (x^ℓ, as asked), `english` (x^en), `response` (stripped),
        `token_ids` and `finish_reason` ("stop" or "length"). The method is called again and again, each time with all
        responses to some prompts, in any order of calls and maybe in several processes; a row's reward must depend on
        nothing but the call's rows.
        """


def load_reward(name: str) -> type[OwnReward]:
    """The class that `module:Class` or `path/to/file.py:Class` stands for.

    Raises:
        UserError: it cannot be imported, or has no method `rewards`.
    """
    found = load_class(name, "reward.kind")
    if not callable(getattr(found, "rewards", None)):
        raise UserError(f"{found.__name__} has no method rewards", where=_where(name), do=f"write it; {GUIDE}")
    return found


def make_reward(name: str) -> OwnReward:
    """An instance. Raises UserError, also when the class wants arguments."""
    kind = load_reward(name)
    try:
        return kind()
    except Exception as error:  # a user's class may fail in any way
        traceback.print_exc()
        raise UserError(
            f"{kind.__name__} cannot be made: {type(error).__name__}: {error}",
            where=_where(name),
            do="give its __init__ no arguments besides self, or no __init__ at all; the log has the traceback",
        ) from error


def call(reward: OwnReward, name: str, rows: list[Row], prompts: Mapping[tuple[str, str], Prompt]) -> list[float]:
    """The rewards of RESPONSES rows.

    Raises:
        UserError: the method fails, or does not give one finite number per row.
    """
    asked = [prompts[row["prompt_id"], row["lang"]] for row in rows]
    given = [{**row, "prompt": p.text, "english": p.english} for row, p in zip(rows, asked, strict=True)]
    try:
        values = [float(value) for value in reward.rewards(given)]
    except Exception as error:  # a user's method may fail in any way
        traceback.print_exc()
        what = f"rewards() failed: {type(error).__name__}: {error}"
        raise UserError(what, where=_where(name), do="mend it; the worker's log has the traceback") from error
    if len(values) != len(rows):
        what = f"rewards() gave {len(values)} numbers for {len(rows)} rows"
        raise UserError(what, where=_where(name), do=f"return one per row, in their order; {GUIDE}")
    for row, value in zip(rows, values, strict=True):
        if not math.isfinite(value):
            at = f"prompt_id {row['prompt_id']}, language {row['lang']}, sample {row['sample']}"
            raise UserError(f"rewards() gave {value}", where=f"{_where(name)}, {at}", do="return finite numbers")
    return values


def _where(name: str) -> str:
    return f"reward.kind: {name}"
