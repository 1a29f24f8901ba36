"""A prompt is a conversation: a list of messages, the last one the user's. A plain text is a list of one.

In tables a prompt is one text, the column `prompt`: a plain text as it is, a longer conversation as JSON.
"""

from __future__ import annotations

import json
from typing import Literal, TypedDict, get_args

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = get_args(Role)


class Message(TypedDict):
    """One turn, in the form that chat templates and OpenAI's API take."""

    role: Role
    content: str


Conversation = list[Message]

_OPENING = '[{"role": "'


def wrap_text(text: str) -> Conversation:
    """A plain text as the conversation that it is: one message of the user's."""
    return [{"role": "user", "content": text}]


def is_plain(conversation: Conversation) -> bool:
    """Whether it is a plain text: one message, of the user's."""
    return [message["role"] for message in conversation] == ["user"]


def dump_conversation(conversation: Conversation) -> str:
    """As tables hold it: a plain text as it is, anything else as JSON. `load_conversation` is the way back.

    A plain text that begins as such JSON does is itself written as JSON: the beginning tells which one it is.
    """
    if is_plain(conversation) and not conversation[0]["content"].startswith(_OPENING):
        return conversation[0]["content"]
    return json.dumps([{"role": m["role"], "content": m["content"]} for m in conversation], ensure_ascii=False)


def load_conversation(text: str) -> Conversation:
    """What `dump_conversation` wrote. JSON of any other form is a plain text."""
    return _parse(text) or wrap_text(text)


def put_before(text: str, conversation: Conversation) -> Conversation:
    """The conversation with `text` at the beginning of the user's first message, unless it begins so already."""
    place = next((place for place, message in enumerate(conversation) if message["role"] == "user"), None)
    if place is None or conversation[place]["content"].startswith(text):
        return conversation
    opened = Message(role="user", content=f"{text}\n\n{conversation[place]['content']}".strip())
    return [*conversation[:place], opened, *conversation[place + 1 :]]


def show_conversation(conversation: Conversation) -> str:
    """For people, judges and classes of the user's to read: a plain text as it is, else every turn under its role."""
    if is_plain(conversation):
        return conversation[0]["content"]
    return "\n\n".join(f"### {message['role'].capitalize()}:\n{message['content']}" for message in conversation)


def _parse(text: str) -> Conversation | None:
    """The messages that a text of `dump_conversation`'s form holds; None: it has another form."""
    if not text.startswith(_OPENING):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if all(map(_is_message, found)) else None


def _is_message(value: object) -> bool:
    if not isinstance(value, dict) or value.keys() != {"role", "content"}:
        return False
    return value["role"] in ROLES and isinstance(value["content"], str)
