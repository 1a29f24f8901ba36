"""What ends an answer, and what of a completion is the answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from icr.base.errors import UserError
from icr.base.files import read_json
from icr.engines.base import Completion, Stops
from icr.engines.templates import template_ends
from icr.engines.tokens import encode_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def find_stops(tokenizer: PreTrainedTokenizerBase, model: str, asked: Sequence[str] = ()) -> Stops:
    """Every end that an answer may have: the chat template's, the tokenizer's EOS, those of the model's
    generation_config.json (without one, of its config.json), and what `sampling.stop` adds.

    The first one is what answers are trained to end with, so that a model is never trained to end in one way and waited
    for in another.

    Args:
        tokenizer: with the chat template that conversations get.
        model: folder or hub id.
        asked: tokens as the tokenizer writes them, or texts.

    Raises:
        UserError: nothing ends an answer.
    """
    added = tokenizer.get_added_vocab()
    vocabulary = set(tokenizer.get_vocab().values())
    eos = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    known = [id for id in _generation_ends(model) if id in vocabulary]
    ids = [*template_ends(tokenizer), *eos, *known, *(added[text] for text in asked if text in added)]
    texts = tuple(text for text in asked if text not in added)
    if not ids and not texts:
        raise UserError(
            "nothing ends an answer: neither chat template nor tokenizer nor generation_config.json has an end token",
            where=model,
            do="name a token or a text in sampling.stop",
        )
    return Stops(tuple(dict.fromkeys(ids)), texts)


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token with which the chat template ends an answer; the tokenizer's EOS where the template has none. None:
    neither has one."""
    eos = tokenizer.eos_token_id
    return next(iter(template_ends(tokenizer)), None if eos is None else int(eos))


def trained_end(tokenizer: PreTrainedTokenizerBase, stops: Stops) -> list[int]:
    """What an answer that was not sampled is ended with before it is scored or trained on."""
    return [stops.ids[0]] if stops.ids else encode_text(tokenizer, stops.texts[0])


def read_answer(tokenizer: PreTrainedTokenizerBase, completion: Completion, stops: Stops) -> str:
    """The text of a completion without what ended it and without control tokens."""
    ids = completion.token_ids
    if completion.finish_reason == "stop" and ids and ids[-1] in stops.ids:
        ids = ids[:-1]
    text = str(tokenizer.decode(ids, skip_special_tokens=True))
    for stop in stops.texts if completion.finish_reason == "stop" else ():
        text = text.partition(stop)[0]
    return text


def ends_with(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], texts: Sequence[str]) -> bool:
    """Whether the last token completes one of the texts."""
    tail = list(ids[-max(len(text.encode()) for text in texts) - 1 :])
    whole, before = (str(tokenizer.decode(part)) for part in (tail, tail[:-1]))
    return any(text in whole and text not in before for text in texts)


def _generation_ends(model: str) -> list[int]:
    from transformers.utils.hub import cached_file

    if model.endswith(".gguf"):
        return []
    for name in ("generation_config.json", "config.json"):
        path = cached_file(
            model, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
        )
        config = {} if path is None else read_json(Path(path))
        found = config.get("eos_token_id", config.get("text_config", {}).get("eos_token_id"))
        if found is not None:
            return [id for id in (found if isinstance(found, list) else [found]) if isinstance(id, int)]
    return []
