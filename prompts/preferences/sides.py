"""A row's prompt, chosen and rejected response: texts, or lists of messages as TRL has them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from icr.base.conversation import Conversation, wrap_text
from icr.base.errors import UserError
from prompts.messages import check_filled, check_order, read_messages, shared_beginning, strip_all

NAMES = ("prompt", "chosen", "rejected")


class Sides(NamedTuple):
    """A preference: two responses to one prompt."""

    prompt: Conversation
    chosen: str
    rejected: str


def find_no_preference(row: Mapping[str, object]) -> str | None:
    """Why a row has no preference, although its form is right; None where it has one."""
    sides = [row.get(name) for name in ("chosen", "rejected")]
    last = [side[-1].get("content") if isinstance(side, list) and side else side for side in sides]
    if all(isinstance(text, str) for text in last):
        if not all(str(text).strip() for text in last):
            return "empty"
        if last[0] == last[1]:
            return "same response twice"
    return None


def read_sides(row: Mapping[str, object], where: str) -> Sides:
    """The preference of a row of `prompt`, `chosen` and `rejected`.

    Of `chosen` and `rejected`, where they are messages, the last one is the response, the assistant's. What is before
    it goes on from the prompt, or repeats it; it has to be the same in both. Without `prompt`, it is the prompt.

    Args:
        where: the row's place, for messages.

    Raises:
        UserError: a part is missing, blank or of another type, or both responses are the same.
    """
    given = {key: row[key] for key in NAMES if row.get(key) is not None}
    texts = {key: value for key, value in given.items() if isinstance(value, str) and value.strip()}
    if any(isinstance(value, list) for value in given.values()):
        sides = _read_messages(given, where)
    elif len(texts) == len(NAMES):
        sides = Sides(wrap_text(texts["prompt"]), texts["chosen"], texts["rejected"])
    else:
        raise _no_pair(given, where)
    if sides.chosen == sides.rejected:
        raise UserError("chosen and rejected are the same text", where=where, do="remove the line")
    return sides


def without_prompt(row: Mapping[str, object], where: str) -> Sides:
    """Two texts that answer no prompt. Raises UserError: they are the same."""
    chosen, rejected = str(row["chosen"]), str(row["rejected"])
    if chosen == rejected:
        raise UserError("chosen and rejected are the same text", where=where, do="remove the line")
    return Sides(wrap_text(""), chosen, rejected)


def _no_pair(given: Mapping[str, object], where: str) -> UserError:
    """For a pair of which a part is missing, blank or of another type."""
    lacking = [f"`{name}`" for name in NAMES if not isinstance(given.get(name), str | list) or not _filled(given[name])]
    example = json.dumps(dict.fromkeys(NAMES, "…"), ensure_ascii=False)
    return UserError(f"a pair without a text in {' and '.join(lacking)}", where=where, do=f"write {example}")


def _filled(value: object) -> bool:
    return bool(value.strip() if isinstance(value, str) else value)


def _read_messages(given: Mapping[str, object], where: str) -> Sides:
    """A pair of which at least one part is a list of messages."""
    prompt = _as_messages(given, "prompt", "user", where) if "prompt" in given else []
    sides = {key: _as_messages(given, key, "assistant", where) for key in ("chosen", "rejected")}
    for key, side in sides.items():
        if side[-1]["role"] != "assistant":
            do = "end it with the assistant's response"
            raise UserError(f"`{key}` ends with a message of the {side[-1]['role']}", where=where, do=do)
    whole = [_continue(prompt, sides[key]) for key in ("chosen", "rejected")]
    messages = check_filled(check_order(shared_beginning(*whole, where=where), where), "the pair", where)
    texts = {key: check_filled(side, f"`{key}`", where)[-1]["content"] for key, side in sides.items()}
    return Sides(messages, texts["chosen"], texts["rejected"])


def _continue(prompt: Conversation, side: Conversation) -> Conversation:
    """The whole conversation: `side` goes on from the prompt, or repeats it, maybe with other white space around."""
    repeats = strip_all(side[: len(prompt)]) == strip_all(prompt)
    return [*prompt, *side[len(prompt) if repeats else 0 :]]


def _as_messages(given: Mapping[str, object], key: str, role: str, where: str) -> Conversation:
    value = given.get(key)
    if not value or not isinstance(value, str | list):
        raise _no_pair(given, where)
    return read_messages([{"role": role, "content": value}] if isinstance(value, str) else value, f"{where}, `{key}`")
