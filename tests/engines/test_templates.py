"""Conversations in a chat template: the token ids by hand, and templates that do not take them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from icr.base.conversation import wrap_text
from icr.base.errors import UserError
from icr.engines.classifier import Classifier
from icr.engines.models import find_tokenizer
from icr.engines.templates import fill_template, prompt_token_ids
from tests.helpers.tiny_models import CHAT_TEMPLATE, make_tokenizer

TALK: Any = [
    {"role": "system", "content": "Answer in English."},
    {"role": "user", "content": "What lives in the sea?"},
    {"role": "assistant", "content": "The whale."},
    {"role": "user", "content": "Name three."},
]
REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"


@pytest.fixture
def tokenizer() -> Any:
    return make_tokenizer()


def test_the_template_sees_all_messages_at_once(tokenizer: Any) -> None:
    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    start, end = map(tokenizer.convert_tokens_to_ids, ("<|im_start|>", "<|im_end|>"))
    assert (start, end) == (1, 2)
    by_hand = [
        start, *ids("system\nAnswer in English."), end, *ids("\n"),
        start, *ids("user\nWhat lives in the sea?"), end, *ids("\n"),
        start, *ids("assistant\nThe whale."), end, *ids("\n"),
        start, *ids("user\nName three."), end, *ids("\n"),
        start, *ids("assistant\n"),
    ]  # fmt: skip
    assert prompt_token_ids(tokenizer, TALK) == by_hand
    last = [start, *ids("user\nName three."), end, *ids("\n"), start, *ids("assistant\n")]
    assert prompt_token_ids(tokenizer, wrap_text("Name three.")) == last == by_hand[-len(last) :]


def test_a_template_that_refuses_a_role(tokenizer: Any) -> None:
    tokenizer.chat_template = REFUSES + CHAT_TEMPLATE
    assert prompt_token_ids(tokenizer, TALK[1:])
    with pytest.raises(UserError, match=r"refuses .* system, user, assistant, user: System role not supported\n.*do:"):
        prompt_token_ids(tokenizer, TALK)


def test_a_template_that_leaves_the_system_message_out(tokenizer: Any) -> None:
    tokenizer.chat_template = CHAT_TEMPLATE.replace(
        "{% for message in messages %}", "{% for message in messages if message['role'] != 'system' %}"
    )
    assert prompt_token_ids(tokenizer, TALK[1:])
    with pytest.raises(UserError, match="leaves the system message out"):
        prompt_token_ids(tokenizer, TALK)


def test_a_template_may_strip_what_it_writes(tokenizer: Any) -> None:
    tokenizer.chat_template = CHAT_TEMPLATE.replace("message['content']", "message['content'] | trim")
    padded: Any = [{"role": "system", "content": "\n Be brief. "}, *wrap_text(" Hi ")]
    assert "system\nBe brief.<|im_end|>\n" in fill_template(tokenizer, padded, opened=True)


def test_a_classifier_reads_the_conversation_and_the_response(tokenizer: Any) -> None:
    classifier = object.__new__(Classifier)
    classifier.tokenizer = tokenizer
    text = tokenizer.decode([token for token, _ in classifier.token_ids(TALK, "Shark.")])
    assert text == fill_template(tokenizer, [*TALK, {"role": "assistant", "content": "Shark."}], opened=False)
    assert text.endswith("user\nName three.<|im_end|>\n<|im_start|>assistant\nShark.<|im_end|>\n")
    tokenizer.chat_template = None  # a pair of texts
    read = tokenizer.decode([token for token, _ in classifier.token_ids(TALK[2:], "Shark.")])
    assert read == "### Assistant:\nThe whale.\n\n### User:\nName three.Shark."


def test_whether_a_tokenizer_is_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder's is, and a hub id's once it was downloaded."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert find_tokenizer(str(tmp_path)) == str(tmp_path) and find_tokenizer("org/model") is None
    commit = "0" * 40
    kept = tmp_path / "hub" / "models--org--model"
    for file, text in (("refs/main", commit), (f"snapshots/{commit}/tokenizer_config.json", "{}")):
        (kept / file).parent.mkdir(parents=True)
        (kept / file).write_text(text)
    snapshot = str(kept / "snapshots" / commit)
    assert find_tokenizer("org/model") == find_tokenizer(f"hf:org/model@{commit}") == snapshot
    assert find_tokenizer("org/other") is None and find_tokenizer(f"org/model@{'1' * 40}") is None
