"""A prompt in a table's column and back, and as people read it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icr.base.conversation import (
    ROLES,
    dump_conversation,
    is_plain,
    load_conversation,
    show_conversation,
    wrap_text,
)

TALK: Any = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "¿Hola?\n"},
    {"role": "assistant", "content": "Sí."},
    {"role": "user", "content": '{x} "y" <|im_end|>'},
]
MESSAGES = st.lists(st.fixed_dictionaries({"role": st.sampled_from(ROLES), "content": st.text()}), min_size=1)


@pytest.mark.parametrize("text", ["", " Hi\n", "[1]", "null", '{"role": "user"}', '[ {"role": "user"', "### User:\nHi"])
def test_a_plain_text_is_written_as_it_is(text: str) -> None:
    assert dump_conversation(wrap_text(text)) == show_conversation(wrap_text(text)) == text
    assert load_conversation(text) == [{"role": "user", "content": text}] and is_plain(load_conversation(text))


def test_a_conversation_is_written_as_json_that_others_read() -> None:
    written = dump_conversation(TALK)
    assert json.loads(written) == TALK and "¿Hola?" in written
    assert load_conversation(written) == TALK and not is_plain(TALK)


def test_a_plain_text_that_looks_like_a_conversation_stays_a_text() -> None:
    text = dump_conversation(TALK)
    written = dump_conversation(wrap_text(text))
    assert written != text and load_conversation(written) == wrap_text(text)
    for other in ('[{"role": "user", "content": 1}]', '[{"role": "tool", "content": "x"}]', '[{"role": "user"'):
        written = dump_conversation(wrap_text(other))
        assert json.loads(written) == wrap_text(other) == load_conversation(written)
        assert load_conversation(other) == wrap_text(other)  # as tables have it from before there were conversations


@given(MESSAGES)
def test_what_is_written_is_read_again(messages: Any) -> None:
    assert load_conversation(dump_conversation(messages)) == messages


@given(MESSAGES)
def test_also_where_the_text_is_a_written_conversation(messages: Any) -> None:
    nested = wrap_text(dump_conversation(messages))
    assert load_conversation(dump_conversation(nested)) == nested


def test_every_turn_is_shown_under_its_role() -> None:
    assert show_conversation(TALK) == (
        '### System:\nBe brief.\n\n### User:\n¿Hola?\n\n\n### Assistant:\nSí.\n\n### User:\n{x} "y" <|im_end|>'
    )
    assert show_conversation(TALK[:1]) == "### System:\nBe brief."
