"""The part of a chat completion that is read."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from icr.base.fields import Fields


class TopToken(BaseModel):
    token: str
    logprob: float


class Token(TopToken):
    top_logprobs: list[TopToken] = []


class Logprobs(BaseModel):
    content: list[Token] | None = None


class Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class Choice(BaseModel):
    message: Message
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class Reply(BaseModel):
    """The part of a chat completion that is read and kept. Servers differ in the rest."""

    choices: Annotated[list[Choice], Field(min_length=1)]
    usage: Fields | None = None
