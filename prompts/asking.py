"""One text to a translator and back: what is asked, how long the answer may be, and what is wrong with it."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

from icr.endpoint.endpoint import Ask, NoAnswer
from icr.endpoint.reply import Reply
from icr.languages import english_name
from prompts.checks import Checked, Finding, check_translation

NO_ANSWER = "no answer"
REFUSED = "refused"
TRUNCATED = "truncated"

LEAST_TOKENS = 256
TOKENS_PER_CHARACTER = 2
MOST_TOKENS = 4096
"""An answer may have the least, and more for each character of the original up to the most, which every endpoint in use
allows. A translation has 0.3 to 1.5 tokens a character of its English; the rest is for tokenizers that spell a script
out in bytes."""

MESSAGE = "a message that somebody is going to send to an assistant"
ANSWER = "an answer that an assistant gave"
"""What a text is, as the translator reads it."""
TAGGED = re.compile(r"<text>(.*)</text>", re.DOTALL)


def make_ask(text: str, source: str, target: str, what: str = MESSAGE) -> Ask:
    """The question that asks for a text in another language.

    Args:
        source, target: ISO 639-1 codes.
        what: MESSAGE or ANSWER.
    """
    names = {"{language}": english_name(target), "{source}": english_name(source), "{what}": what}
    prompt = _template()
    for mark, name in names.items():
        prompt = prompt.replace(mark, name)
    prompt = prompt.replace("{text}", text.strip())  # last, so that braces in the text stay as they are
    room = min(MOST_TOKENS, LEAST_TOKENS + TOKENS_PER_CHARACTER * len(text))
    return Ask((("user", prompt),), room)


def read_translation(
    text: str, source: str, target: str, answer: Reply | NoAnswer, *, turn: bool
) -> tuple[str, Checked]:
    """The translation of a text, and what is wrong with it.

    Args:
        turn: as for `check_translation`.
    """
    if isinstance(answer, NoAnswer):
        return "", Checked([Finding(NO_ANSWER, f"{answer.reason}: {answer.detail}")], False)
    choice = answer.choices[0]
    found = _bare(choice.message.content or "")
    if choice.message.refusal or choice.finish_reason == "content_filter":
        finding = Finding(REFUSED, choice.message.refusal or "stopped by the endpoint's content filter")
        return found, Checked([finding], False)
    checked = check_translation(text, found, target, source=source, turn=turn)
    if choice.finish_reason == "length":
        cut = Finding(TRUNCATED, f"cut off after {len(found)} characters")
        checked = Checked([cut, *checked.findings], checked.language_known)
    return found, checked


def _bare(answer: str) -> str:
    """The answer without the prompt's tags, which some models repeat."""
    tagged = TAGGED.fullmatch(answer.strip())
    return (tagged[1] if tagged else answer).strip()


@cache
def _template() -> str:
    return (files("prompts") / "translate_prompt.txt").read_text(encoding="utf-8").strip()
