"""A row's prompt, under the names that data sets use: one text, or the messages of a conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from icr.base.conversation import Conversation, Role, is_plain, wrap_text
from icr.base.errors import UserError, some

TEXT_NAMES = ("instruction", "prompt")
MESSAGE_NAMES = ("prompt", "messages", "conversations")
"""A row's fields, the first that is there. Where a row has a text, its messages are not read: data sets that have both
keep the answer among the messages."""
ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
}
"""By the names of OpenAI's API (`role`, `content`) and of ShareGPT's files (`from`, `value`)."""


def read_prompt(row: Mapping[str, object], where: str) -> Conversation:
    """The prompt of a row. Messages may be blank; `is_blank` says whether one is.

    Args:
        where: the row's place, for messages.

    Raises:
        UserError: it has no prompt, or its messages are not a conversation that ends with the user's message.
    """
    for name in TEXT_NAMES:
        if isinstance(text := row.get(name), str):
            return wrap_text(text)
    for name in MESSAGE_NAMES:
        if isinstance(messages := row.get(name), list):
            return check_order(read_messages(messages, f"{where}, `{name}`"), f"{where}, `{name}`")
    if isinstance(chosen := row.get("chosen"), list) and isinstance(rejected := row.get("rejected"), list):
        sides = [read_messages(chosen, f"{where}, `chosen`"), read_messages(rejected, f"{where}, `rejected`")]
        return check_order(shared_beginning(*sides, where=where), where)
    do = "add its text as `instruction`, or a conversation as `messages`"
    names = f": the row has {some(map(str, row))}" if row else ""
    raise UserError(f"a prompt without `instruction`{names}", where=where, do=do)


def shared_beginning(chosen: Conversation, rejected: Conversation, *, where: str) -> Conversation:
    """What the last messages of two conversations both answer: TRL's implicit prompt.

    Raises:
        UserError: they answer different conversations.
    """
    if strip_all(chosen[:-1]) != strip_all(rejected[:-1]):
        do = "give both the same messages before their last"
        raise UserError("chosen and rejected answer different conversations", where=where, do=do)
    return chosen[:-1]


def strip_all(messages: Conversation) -> Conversation:
    """The messages without white space around their texts, for comparing them."""
    return [{"role": message["role"], "content": message["content"].strip()} for message in messages]


def read_messages(values: Sequence[object], where: str) -> Conversation:
    """Messages, each with a role and a text; in which order is for `check_order` to say.

    Raises:
        UserError: one has no text or no role that is known.
    """
    messages: Conversation = []
    for number, value in enumerate(values, 1):
        fields = value if isinstance(value, dict) else {}
        role, text = fields.get("role", fields.get("from")), fields.get("content", fields.get("value"))
        if not isinstance(text, str):
            do = 'write {"role": "user", "content": "…"}'
            raise UserError(f"message {number} has no text", where=where, do=do)
        if not isinstance(role, str) or role not in ROLES:
            do = "give it the role system, user or assistant"
            raise UserError(f"message {number} has the role {role!r}", where=where, do=do)
        messages.append({"role": ROLES[role], "content": text})
    return messages


def check_order(messages: Conversation, where: str) -> Conversation:
    """The messages, where they are a prompt: maybe the system's, then the user's and the assistant's in turn.

    Raises:
        UserError: there are none, two of one role follow each other, or the last is not the user's.
    """
    roles = [message["role"] for message in messages]
    if not roles:
        raise UserError("a conversation without messages", where=where, do="add the user's message")
    turns = roles[1:] if roles[0] == "system" else roles
    for number, role in enumerate(turns):
        expected: Role = "assistant" if number % 2 else "user"
        if role != expected:
            what = f"message {number + 1 + len(roles) - len(turns)} is the {role}'s and should be the {expected}'s"
            do = "after an optional system message, let the user and the assistant take turns"
            raise UserError(what, where=where, do=do)
    if roles[-1] != "user":
        what = f"the last message is the {roles[-1]}'s"
        raise UserError(what, where=where, do="end with the user's message: the model answers it")
    return messages


def check_filled(messages: Conversation, name: str, where: str) -> Conversation:
    """The messages, where each has a text.

    Args:
        name: of the prompt, for the message.

    Raises:
        UserError: one is blank.
    """
    if is_blank(messages):
        part = "the instruction" if is_plain(messages) else "a message"
        raise UserError(f"{part} of {name} is empty", where=where, do="add the text or remove the line")
    return messages


def is_blank(messages: Conversation) -> bool:
    """Whether a message has no text but white space."""
    return any(not message["content"].strip() for message in messages)


def name_roles(messages: Conversation) -> str:
    """The roles of the messages, in words."""
    return ", ".join(message["role"] for message in messages)
