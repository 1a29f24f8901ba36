"""English preference pairs, for aligning a model in English."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from icr.base.conversation import Conversation, dump_conversation, wrap_text
from icr.base.errors import ConfigError, UserError
from prompts.load import json_objects
from prompts.messages import check_filled, check_order, read_messages

ALIGNMENT_KEYS = ("prompt", "chosen", "rejected")


def read_alignment(path: str) -> list[dict[str, str]]:
    """English preference pairs: jsonl of `prompt`, `chosen`, `rejected`, each a text or a list of messages.

    Of `chosen` and `rejected`, the last message is the response, the assistant's. What is before it goes on from the
    prompt, or repeats it; it has to be the same in both. Without `prompt`, it is the prompt.

    Returns:
        Pairs of texts; `prompt` is what `icr.base.conversation.dump_conversation` writes.

    Raises:
        ConfigError: every bad line.
    """
    problems: list[UserError] = []
    pairs: list[dict[str, str]] = []
    if not Path(path).is_file():
        raise UserError(f"file {path} not found", where="alignment.pairs", do="check the path")
    for where, value in json_objects(Path(path), problems):
        try:
            pairs.append(_read_pair(value if isinstance(value, dict) else {}, where))
        except UserError as error:
            problems.append(error)
    if not problems and not pairs:
        problems.append(UserError("no pairs in the file", where=path, do="add at least one pair"))
    if problems:
        raise ConfigError(problems[:20])
    return pairs


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
    before = {key: side[:-1] if side[: len(prompt)] == prompt else [*prompt, *side[:-1]] for key, side in sides.items()}
    if before["chosen"] != before["rejected"]:
        do = "give both the same messages before their last"
        raise UserError("chosen and rejected answer different conversations", where=where, do=do)
    messages = check_filled(check_order(before["chosen"], where), "the pair", where)
    texts = {key: check_filled(side, f"`{key}`", where)[-1]["content"] for key, side in sides.items()}
    return {"prompt": dump_conversation(messages), **texts}


def _as_messages(given: Mapping[str, object], key: str, role: str, where: str) -> Conversation:
    value = given.get(key)
    if not value or not isinstance(value, str | list):
        raise _no_pair(where)
    return read_messages([{"role": role, "content": value}] if isinstance(value, str) else value, f"{where}, `{key}`")
