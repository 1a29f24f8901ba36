"""How many tokens prompts have, by the model's own tokenizer on the prompts themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from icr.base.conversation import Conversation, load_conversation, show_conversation
from icr.base.errors import UserError
from icr.config.schema import Config
from icr.engines.templates import Template
from icr.planning.facts import ModelFacts
from icr.rewards import condition
from icr.rounds.context import Inputs
from icr.rounds.templates import LOG_RATIOS
from prompts.load import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

READ = 200
"""Prompts of a language that are encoded, evenly spread, where there are more."""
GUESSED_BYTES = 4.0
"""Bytes of UTF-8 in a token, where the tokenizer is not on this machine."""
GUESSED_TEMPLATE = 20
"""Tokens that a chat template puts around a prompt, likewise."""


@dataclass(frozen=True)
class OfLanguage:
    """Prompts of one language. Means a prompt."""

    prompts: int
    tokens: float
    """In the chat template."""
    condition: float
    """Of what the reward conditions on."""
    characters: float
    bytes: float
    """Bytes of UTF-8."""
    per_character: float
    """Tokens for a character, without the template."""

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / max(1.0, self.per_character * self.characters)


@dataclass(frozen=True)
class Texts:
    """The prompts of a run, counted."""

    prompts: Mapping[str, OfLanguage]
    heldout: Mapping[str, OfLanguage]
    alignment: Sequence[tuple[int, int, int]] = ()
    """Tokens of prompt, chosen and rejected answer of each English pair."""
    source: str = ""
    """How tokens were counted, for people."""
    exact: bool = True
    """By the tokenizer; False: guessed from bytes."""


def count_texts(config: Config, inputs: Inputs, facts: ModelFacts | None) -> Texts:
    """Encode up to READ prompts of each language, and the English pairs.

    Without a tokenizer on this machine a token is guessed to have GUESSED_BYTES bytes, and `source` says so.
    """
    counter = _Counter(config, facts)
    kind = config.reward.kind
    languages = config.prompts.languages
    pairs = [
        (
            counter.prompt(load_conversation(pair["prompt"])),
            counter.text(pair["chosen"]) + 1,
            counter.text(pair["rejected"]) + 1,
        )
        for pair in _spread(inputs.alignment)
    ]
    repeated = len(inputs.alignment) / max(1, len(pairs))
    return Texts(
        prompts={lang: counter.language([p for p in inputs.prompts if p.lang == lang], kind) for lang in languages},
        heldout={lang: counter.language([p for p in inputs.heldout if p.lang == lang], "") for lang in languages},
        alignment=[pair for n, pair in enumerate(pairs * max(1, round(repeated))) if n < len(inputs.alignment)],
        source=counter.source,
        exact=counter.tokenizer is not None,
    )


def _spread(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    return list(rows) if len(rows) <= READ else [rows[i * len(rows) // READ] for i in range(READ)]


class _Counter:
    def __init__(self, config: Config, facts: ModelFacts | None) -> None:
        self.tokenizer = _open(config, facts.folder if facts else None)
        self.source = (
            f"the model's tokenizer on the prompts themselves (at most {READ} a language)"
            if self.tokenizer
            else f"a guess of {GUESSED_BYTES:.0f} bytes a token, as the tokenizer is not on this machine"
        )

    def text(self, text: str) -> int:
        if self.tokenizer is None:
            return round(len(text.encode()) / GUESSED_BYTES)
        from icr.engines.tokens import encode_text

        return len(encode_text(self.tokenizer, text))

    def prompt(self, messages: Conversation) -> int:
        if self.tokenizer is None:
            return self.text(show_conversation(messages)) + GUESSED_TEMPLATE
        from icr.engines.templates import prompt_token_ids

        return len(prompt_token_ids(self.tokenizer, messages))

    def language(self, prompts: Sequence[Prompt], kind: str) -> OfLanguage:
        some = prompts if len(prompts) <= READ else [prompts[i * len(prompts) // READ] for i in range(READ)]
        texts = [show_conversation(p.messages) for p in some]
        characters = _mean(len(text) for text in texts)
        conditions = [condition(kind, p.lang, p.messages, p.english) for p in some] if kind in LOG_RATIOS else []
        return OfLanguage(
            prompts=len(prompts),
            tokens=_mean(self.prompt(p.messages) for p in some),
            condition=_mean(self.prompt(messages) for messages in conditions),
            characters=characters,
            bytes=_mean(len(text.encode()) for text in texts),
            per_character=_mean(self.text(text) for text in texts) / max(1.0, characters),
        )


def _open(config: Config, folder: Path | None) -> PreTrainedTokenizerBase | None:
    from icr.engines.models import find_tokenizer, load_counter

    found = find_tokenizer(str(folder)) if folder else None
    template = Template(file=config.models.chat_template, arguments=config.models.template_arguments)
    try:
        return load_counter(Path(found), template) if found else None
    except UserError:
        return None  # only its config.json is here


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0
