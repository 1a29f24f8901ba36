"""English preference pairs, for aligning a model in English."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from icr.base.conversation import Conversation, dump_conversation, wrap_text
from icr.base.errors import ConfigError, UserError
from prompts.hub import is_hub_name
from prompts.load import read_source
from prompts.messages import check_filled, check_order, read_messages, shared_beginning, strip_all
from prompts.tables import capped

ALIGNMENT_KEYS = ("prompt", "chosen", "rejected")


@dataclass(frozen=True)
class EnglishPairs:
    """Pairs of texts, and how many rows were left out for which reason."""

    pairs: list[dict[str, str]]
    """`prompt`, as `icr.base.conversation.dump_conversation` writes it, `chosen` and `rejected`."""
    left_out: Counter[str]


def read_alignment(path: str, key: str = "alignment.pairs") -> EnglishPairs:
    """English preference pairs: rows of `prompt`, `chosen`, `rejected`, each a text or a list of messages.

    Of `chosen` and `rejected`, the last message is the response, the assistant's. What is before it goes on from the
    prompt, or repeats it; it has to be the same in both. Without `prompt`, it is the prompt.

    Args:
        path: a jsonl, json, csv or parquet file (each also .gz), or a data set on the hub. Rows of the latter without
            a preference (an empty response, or the same one twice) are left out and counted: users cannot fix them.
        key: the config key, for messages.

    Raises:
        ConfigError: every bad line.
        UserError: there is no such file or data set.
    """
    problems: list[UserError] = []
    pairs: list[dict[str, str]] = []
    left_out: Counter[str] = Counter()
    for where, value in read_source(path, key, problems):
        row = value if isinstance(value, dict) else {}
        try:
            if is_hub_name(path) and (reason := _no_preference(row)):
                left_out[reason] += 1
            else:
                pairs.append(_read_pair(row, where))
        except UserError as error:
            problems.append(error)
    if not problems and not pairs:
        problems.append(UserError("no pairs in the file", where=path, do="add at least one pair"))
    if problems:
        raise ConfigError(capped(problems))
    return EnglishPairs(pairs, left_out)


def describe_pairs(english: EnglishPairs, limit: int | None) -> Iterator[str]:
    """What is unusual in the pairs, and no error: some were left out, or there are fewer than the limit."""
    if english.left_out:
        reasons = ", ".join(f"{count} {reason}" for reason, count in english.left_out.items())
        yield f"alignment.pairs: {english.left_out.total()} rows are left out: {reasons}"
    if limit and english.pairs and len(english.pairs) < limit:
        yield f"alignment.limit is {limit}, but there are only {len(english.pairs)} pairs: all are used"


def _no_preference(row: Mapping[str, object]) -> str | None:
    """Why a row has none, although its form is right."""
    sides = [row.get(name) for name in ("chosen", "rejected")]
    last = [side[-1].get("content") if isinstance(side, list) and side else side for side in sides]
    if all(isinstance(text, str) for text in last):
        if not all(str(text).strip() for text in last):
            return "empty"
        if last[0] == last[1]:
            return "same response twice"
    return None


def _read_pair(row: Mapping[str, object], where: str) -> dict[str, str]:
    given = {key: row[key] for key in ALIGNMENT_KEYS if row.get(key) is not None}
    texts = {key: value for key, value in given.items() if isinstance(value, str) and value.strip()}
    if any(isinstance(value, list) for value in given.values()):
        texts = _read_messages(given, where)
    elif len(texts) == len(ALIGNMENT_KEYS):
        texts["prompt"] = dump_conversation(wrap_text(texts["prompt"]))
    else:
        raise _no_pair(where)
    if texts["chosen"] == texts["rejected"]:
        raise UserError("chosen and rejected are the same text", where=where, do="remove the line")
    return texts


def _no_pair(where: str) -> UserError:
    example = json.dumps(dict.fromkeys(ALIGNMENT_KEYS, "…"), ensure_ascii=False)
    return UserError("a pair without prompt, chosen and rejected texts", where=where, do=f"write {example}")


def _read_messages(given: Mapping[str, object], where: str) -> dict[str, str]:
    """A pair of which at least one part is a list of messages."""
    prompt = _as_messages(given, "prompt", "user", where) if "prompt" in given else []
    sides = {key: _as_messages(given, key, "assistant", where) for key in ("chosen", "rejected")}
    for key, side in sides.items():
        if side[-1]["role"] != "assistant":
            do = "end it with the response, a message of the assistant's"
            raise UserError(f"`{key}` ends with a message of the {side[-1]['role']}'s", where=where, do=do)
    whole = [_continue(prompt, sides[key]) for key in ("chosen", "rejected")]
    messages = check_filled(check_order(shared_beginning(*whole, where=where), where), "the pair", where)
    texts = {key: check_filled(side, f"`{key}`", where)[-1]["content"] for key, side in sides.items()}
    return {"prompt": dump_conversation(messages), **texts}


def _continue(prompt: Conversation, side: Conversation) -> Conversation:
    """The whole conversation: `side` goes on from the prompt, or repeats it, maybe with other white space around."""
    repeats = strip_all(side[: len(prompt)]) == strip_all(prompt)
    return [*prompt, *side[len(prompt) if repeats else 0 :]]


def _as_messages(given: Mapping[str, object], key: str, role: str, where: str) -> Conversation:
    value = given.get(key)
    if not value or not isinstance(value, str | list):
        raise _no_pair(where)
    return read_messages([{"role": role, "content": value}] if isinstance(value, str) else value, f"{where}, `{key}`")
