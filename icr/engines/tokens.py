"""Texts as token ids. A text is text: characters that spell a control token do not become that token."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

MARKS = [*range(0xFDD0, 0xFDF0), *range(0xF0000, 0xFFFFE)]
"""Code points that texts have no use for: noncharacters, and a plane for private use."""


class Guard:
    """Tells the control tokens of a tokenizer from text that looks like them.

    Control tokens are the special ones, and those added ones that the chat template writes. Other added tokens (runs of
    blanks, HTML tags) are part of ordinary text and stay what they are.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        source = template_source(tokenizer)
        self.ids: dict[str, int] = {
            token.content: id
            for id, token in tokenizer.added_tokens_decoder.items()
            if token.content.strip() and (token.special or token.content in source)
        }
        """What a control token is written like → its id."""
        self._names = list(self.ids)
        self._numbers = {name: number for number, name in enumerate(self._names)}
        longest_first = sorted(self._names, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._copies: dict[str, tuple[Tokenizer, dict[int, int]]] = {}

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; nothing in it becomes a control token."""
        if self.pattern.search(text):
            return self._read(text, choose_mark(text))
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def encode_pair(self, first: str, second: str) -> list[tuple[int, int]]:
        """(token id, segment) of each token of two texts, with the special tokens that the tokenizer puts around them;
        nothing in the texts becomes one."""
        if self._tokenizer.is_fast and (self.pattern.search(first) or self.pattern.search(second)):
            plain, _ = self._copy(choose_mark(first, second))
            both = plain.encode(first, second)
            return list(zip(both.ids, both.type_ids, strict=True))
        encoded = self._tokenizer(first, second)
        ids: list[int] = encoded["input_ids"]
        segments: list[int] = encoded.get("token_type_ids") or [0] * len(ids)
        return list(zip(ids, segments, strict=True))

    def encode_whole(self, text: str) -> list[int]:
        """Token ids of a text with the special tokens that the tokenizer puts around it; nothing in it becomes one."""
        if self._tokenizer.is_fast and self.pattern.search(text):
            plain, _ = self._copy(choose_mark(text))
            return list(plain.encode(text).ids)
        ids: list[int] = self._tokenizer(text)["input_ids"]
        return ids

    def hide(self, text: str, mark: str) -> str:
        """The text with placeholders for what spells a control token, so that a template can be put around it."""
        return self.pattern.sub(lambda found: f"{mark}{self._numbers[found[0]]}{mark}", text)

    def encode_around(self, text: str, mark: str) -> list[int]:
        """Token ids of what a template has made of texts from `hide`: control tokens are meant, placeholders are not.

        The tokenizer's own pipeline reads all of it at once: a copy that has stand-ins for the control tokens.
        """
        if self._tokenizer.is_fast:
            return self._read(self.pattern.sub(lambda found: self._stand_in(found[0], mark), text), mark)
        ids: list[int] = []
        start = 0
        for found in self.pattern.finditer(text):  # of a tokenizer in Python, the parts are read alone
            ids += [*self._read(text[start : found.start()], mark), self.ids[found[0]]]
            start = found.end()
        return ids + self._read(text[start:], mark)

    def _read(self, text: str, mark: str) -> list[int]:
        """Token ids of a text in which stand-ins alone are control tokens."""
        text = re.sub(f"{mark}(\\d+){mark}", lambda found: self._names[int(found[1])], text)
        if not self._tokenizer.is_fast:
            ids: list[int] = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            return ids
        plain, meant = self._copy(mark)
        return [meant.get(id, id) for id in plain.encode(text, add_special_tokens=False).ids]

    def _stand_in(self, name: str, mark: str) -> str:
        return f"{mark}t{self._numbers[name]}{mark}"

    def _copy(self, mark: str) -> tuple[Tokenizer, dict[int, int]]:
        """A tokenizer that takes control tokens for text, and their ids by those of its stand-ins."""
        from tokenizers import AddedToken, Tokenizer

        if mark in self._copies:
            return self._copies[mark]
        written = json.loads(self._tokenizer.backend_tokenizer.to_str())
        for token in written["added_tokens"]:
            token["special"] = token["content"] in self.ids
        plain = Tokenizer.from_str(json.dumps(written))
        plain.no_padding()
        plain.no_truncation()
        plain.encode_special_tokens = True
        meant: dict[int, int] = {}
        for token in self._tokenizer.added_tokens_decoder.values():
            if token.content in self.ids:
                stand_in = AddedToken(
                    self._stand_in(token.content, mark),
                    single_word=token.single_word,
                    lstrip=token.lstrip,
                    rstrip=token.rstrip,
                    normalized=token.normalized,
                    special=False,
                )
                plain.add_tokens([stand_in])
                made = plain.token_to_id(stand_in.content)
                assert made is not None
                meant[made] = self.ids[token.content]
        self._copies[mark] = plain, meant
        return plain, meant


_GUARDS: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[object, Guard]] = WeakKeyDictionary()


def guard_of(tokenizer: PreTrainedTokenizerBase) -> Guard:
    """A tokenizer's guard, made once for each chat template that it is given."""
    kept = _GUARDS.get(tokenizer)
    state = (tokenizer.chat_template, len(tokenizer))
    if kept is None or kept[0] != state:
        kept = (state, Guard(tokenizer))
        _GUARDS[tokenizer] = kept
    return kept[1]


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text by itself: no BOS, no end, and no control token, whatever its characters spell."""
    return guard_of(tokenizer).encode(text)


def choose_mark(*texts: str) -> str:
    """A character that none of the texts has."""
    return next(mark for mark in map(chr, MARKS) if not any(mark in text for text in texts))


def template_source(tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokenizer's chat templates as Jinja text; "" if it has none."""
    found = tokenizer.chat_template
    return "\n".join(found.values()) if isinstance(found, dict) else found or ""


def show_tokens(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """The ids as text, with each control token between ⟦ and ⟧."""
    names = {id: name for name, id in guard_of(tokenizer).ids.items()}
    parts: list[str] = []
    run: list[int] = []
    for id in [*ids, None]:
        if id is not None and id not in names:
            run.append(id)
            continue
        if run:
            parts.append(str(tokenizer.decode(run)))
            run = []
        if id is not None:
            parts.append(f"⟦{names[id]}⟧")
    return "".join(parts)


def unknown_ids(tokenizer: PreTrainedTokenizerBase, rows: int) -> list[int]:
    """Ids below `rows`, the rows of a model's output head, that the tokenizer does not have: padding of the matrix."""
    known = set(tokenizer.get_vocab().values())
    return [id for id in range(rows) if id not in known]
