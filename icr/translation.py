"""The policy translates responses, its own words into its own words: for R_t (Eq. 13, 14) and for LIDR.

The request, prompts/translate_response.txt, is the paper's (Appendix E.2), quoted from its authors' code
(github.com/ZNLP/Implicit-Cross-Lingual-Rewarding, utils/trans_prompts.py): the text is between marks, the
translation is requested between marks, and the answer is started with the opening one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from icr.base.conversation import wrap_text
from icr.base.errors import UserError
from icr.engines.base import Completion, Decoding, Engine, Request, Stops
from icr.languages import detect, english_name, same_language
from icr.rows import Response, Translation, is_empty

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


OPEN, CLOSE = "<translated>", "</translated>"
REASONS = ("no_response", "too_long", "truncated", "empty", "wrong_language")
"""Why there is no translation: nothing to translate; no room in the model's context; cut off before its end; nothing in
it; surely in another language than the one asked for (a copy of the text, most often)."""
ROOM = 2
"""Most tokens of a response and of its translation, as a multiple of `sampling.max_tokens`: other scripts take more
tokens a word, and a text that is tokenised again may take more than it was sampled in."""


def translation_prompt(text: str, target: str) -> str:
    """The user turn that asks for `text` in the language `target` (ISO 639-1)."""
    filled = _template().replace("{language}", english_name(target))
    return filled.replace("{text}", text)  # last, so that braces in the text stay as they are


def translation_of(answer: str) -> str:
    """The translation in an answer that was begun with the opening mark: all up to the closing one."""
    return answer.strip().removeprefix(OPEN).partition(CLOSE)[0].strip()


def failure(answer: str, finish_reason: str, target: str) -> str | None:
    """Why an answer is not a translation into `target`, by REASONS; None where it is one."""
    text = translation_of(answer)
    if finish_reason == "length" and CLOSE not in answer:
        return "truncated"
    if not text:
        return "empty"
    return None if same_language(detect(text), target) else "wrong_language"


@dataclass(frozen=True)
class Frame:
    """How a response becomes a request to translate it, and how many tokens there are for what."""

    tokenizer: PreTrainedTokenizerBase
    longest: int
    """Tokens of a request; a longer one leaves too little room for its answer."""
    decoding: Decoding
    stops: Stops

    @classmethod
    def of(
        cls, tokenizer: PreTrainedTokenizerBase, context: int, max_tokens: int, targets: Sequence[str], stops: Stops
    ) -> Frame:
        """The frame that a model with `context` positions has for responses of about `max_tokens`: half of what the
        request leaves is for the response and half for its translation, as far as ROOM asks for so much.

        Raises:
            UserError: it leaves nothing.
        """
        empty = max(len(request_ids(tokenizer, "", target)) for target in targets)
        half = min(ROOM * max_tokens, (context - empty) // 2)
        if half < 1:
            raise UserError(
                f"the model's context of {context} tokens is too short for a response and its translation",
                where="models.policy",
                do="use another reward.kind",
            )
        return cls(tokenizer, empty + half, Decoding(0.0, 1.0, half, stops), stops)


def request_ids(tokenizer: PreTrainedTokenizerBase, text: str, target: str) -> list[int]:
    """The templated request to translate `text`, the answer begun with the opening mark."""
    from icr.engines.templates import prompt_token_ids
    from icr.engines.tokens import encode_text

    begun = encode_text(tokenizer, f"{OPEN}\n")
    return prompt_token_ids(tokenizer, wrap_text(translation_prompt(text, target))) + begun


def translate_rows(frame: Frame, engine: Engine, work: Sequence[tuple[Response, str]]) -> list[Translation]:
    """Eq. 14: what R_t scores in place of y. Translations of (response, target language), greedily decoded.

    A translation's own token ids are those of its text, without the marks. They end in the end-of-turn token where the
    response has one, so that a text that was cut off does not pass for a finished one.
    """
    asked = [request_ids(frame.tokenizer, response["response"].strip(), target) for response, target in work]
    skipped = [
        "no_response" if is_empty(response) else "too_long" if len(ids) > frame.longest else None
        for (response, _), ids in zip(work, asked, strict=True)
    ]
    requests = [Request(ids, 0) for ids, why in zip(asked, skipped, strict=True) if why is None]
    completions = iter(engine.generate(requests, frame.decoding) if requests else [])
    return [
        _make_row(frame, response, target, None if why else next(completions), why)
        for (response, target), why in zip(work, skipped, strict=True)
    ]


def _make_row(
    frame: Frame, response: Response, target: str, completion: Completion | None, why: str | None
) -> Translation:
    from icr.engines.stops import read_answer

    answer = "" if completion is None else read_answer(frame.tokenizer, completion, frame.stops)
    text = translation_of(answer)
    return {
        "prompt_id": response["prompt_id"],
        "lang": response["lang"],
        "target": target,
        "sample": response["sample"],
        "response_ids": _ids(frame, response["response"].strip(), response["finish_reason"]),
        "translation": text,
        "token_ids": _ids(frame, text, response["finish_reason"]),
        "finish_reason": None if completion is None else completion.finish_reason,
        "failed": why if completion is None else failure(answer, completion.finish_reason, target),
    }


def _ids(frame: Frame, text: str, finish_reason: str) -> list[int]:
    from icr.engines.stops import trained_end
    from icr.engines.tokens import encode_text

    ids = encode_text(frame.tokenizer, text)
    return [*ids, *trained_end(frame.tokenizer, frame.stops)] if finish_reason == "stop" else ids


@cache
def _template() -> str:
    return (files("prompts") / "translate_response.txt").read_text(encoding="utf-8").strip()
