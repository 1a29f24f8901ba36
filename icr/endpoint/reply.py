"""The part of a chat completion that is read. Servers differ in the rest, and sometimes in this part as well."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from icr.base.fields import Fields

SURROGATES = re.compile("[\ud800-\udfff]")
TEXT_PARTS = ("text", "output_text")
"""Types of the parts of a message's content that are its text; the others are reasoning, images or sounds."""


class BrokenAnswer(Exception):
    """A reply with status 200 that is not a chat completion. It is requested again, as after a server error."""


class TopToken(BaseModel):
    token: str
    logprob: float | None = None
    """None where the server wrote null, which some do for a probability of 0."""


class Token(TopToken):
    top_logprobs: list[TopToken] | None = None


class Logprobs(BaseModel):
    content: list[Token] | None = None


class Message(BaseModel):
    content: str | None = None
    refusal: str | None = None
    reasoning: Annotated[str | None, Field(validation_alias="reasoning_content")] = None
    """What a model wrote before its answer, where the server keeps it apart."""

    model_config = {"populate_by_name": True}


class Choice(BaseModel):
    message: Message
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class Reply(BaseModel):
    """The part of a chat completion that is read and kept."""

    choices: Annotated[list[Choice], Field(min_length=1)]
    usage: Fields | None = None


def read_completion(content: bytes) -> Reply:
    """A chat completion from an endpoint's reply.

    What is odd in it and not needed is left out: log-probs or usage of another form, parts of the content that are not
    text, characters that are not Unicode.

    Raises:
        BrokenAnswer: it is not a chat completion, or one that the server itself calls failed.
    """
    try:
        reply = Reply.model_validate_json(content)
    except ValidationError as error:
        reply = _read_odd(content, error)
    if reply.choices[0].finish_reason == "error":
        raise BrokenAnswer(f"the endpoint failed while it answered{_error_in(content)}")
    return reply


def usage_in(content: bytes) -> object:
    """The usage in a reply that is otherwise not a chat completion: it was paid for as well."""
    found = _parse(content)
    return found.get("usage") if isinstance(found, dict) else None


def _read_odd(content: bytes, error: ValidationError) -> Reply:
    found = _parse(content)
    if isinstance(found, dict) and isinstance(found.get("choices"), list) and found["choices"]:
        try:
            return Reply.model_validate(found | {"choices": [_plain_choice(c) for c in found["choices"][:1]],
                                                 "usage": _mapping(found.get("usage"))})  # fmt: skip
        except ValidationError as still:
            error = still
    said = _error_in(content)
    raise BrokenAnswer(f"the endpoint failed{said}" if said else f"not a chat completion ({error.errors()[0]['msg']})")


def _plain_choice(choice: object) -> object:
    """A choice without what cannot be read in it."""
    if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
        return choice
    message = choice["message"]
    plain = {name: value if isinstance(value, str) else None for name, value in message.items()}
    if isinstance(message.get("content"), list):
        plain["content"] = "".join(map(_part_text, message["content"]))
    reason = choice.get("finish_reason")
    return {
        "message": plain,
        "finish_reason": reason if isinstance(reason, str) else None,
        "logprobs": _plain_logprobs(choice.get("logprobs")),
    }


def _part_text(part: object) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and part.get("type", "text") in TEXT_PARTS and isinstance(part.get("text"), str):
        return str(part["text"])
    return ""


def _plain_logprobs(logprobs: object) -> Logprobs | None:
    try:
        return Logprobs.model_validate(logprobs)
    except ValidationError:
        return None


def _mapping(value: object) -> Mapping[str, object] | None:
    return value if isinstance(value, dict) else None


def _parse(content: bytes) -> object:
    """The JSON of a reply, with the replacement character for what is not Unicode; None where it is not JSON."""
    try:
        found: object = json.loads(content.decode("utf-8-sig", errors="replace"))
        return json.loads(SURROGATES.sub("�", json.dumps(found, ensure_ascii=False)))
    except (ValueError, RecursionError):
        return None


def _error_in(content: bytes) -> str:
    """ ": " and what a reply says went wrong; "" where it says nothing."""
    found = _parse(content)
    error = found.get("error") if isinstance(found, dict) else None
    said = error.get("message") if isinstance(error, dict) else error
    return f": {said}" if isinstance(said, str) and said else ""
