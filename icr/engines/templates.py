"""Chat templates: how a conversation becomes the token ids that a model reads, and what is wrong with a template."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date as Date
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pydantic import BaseModel

from icr.base.conversation import Conversation, wrap_text
from icr.base.errors import UserError
from icr.engines.tokens import choose_mark, guard_of, template_source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Arguments = dict[str, bool | int | float | str]
"""As `icr.config.schema.TemplateArguments`."""

SWITCHES = ("enable_thinking", "thinking")
"""What templates call the argument that turns reasoning on and off."""
OPENINGS = ("<think>", "<thinking>", "<reasoning>", "[THINK]")
"""With one of these at its end, an opened answer is reasoning, whatever the arguments."""
HARMONY = "<|channel|>"
"""In a template, it says that an answer has channels, one of them for reasoning."""
DIRECTIVES = "aAbBdejmyYHIMSpwuxXcDFTRZ"
"""What a date in a template may be written with."""
NO_THINKING: Arguments = dict.fromkeys(SWITCHES, False)
"""For a model that is asked for a verdict or a translation; templates ignore arguments that they do not know."""


class Template(BaseModel, frozen=True):
    """The chat template of a run's models, and what it is given beside the conversation."""

    file: str | None = None
    """`models.chat_template`. None: the tokenizer's own."""
    arguments: Arguments = {}
    """`models.template_arguments`."""
    date: str | None = None
    """YYYY-MM-DD, what a template takes for today. None: the clock decides."""

    def apply(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Give the tokenizer this template.

        Raises:
            OSError: the file cannot be read.
        """
        if self.file:
            tokenizer.chat_template = Path(self.file).read_text(encoding="utf-8")
        found = tokenizer.chat_template
        if isinstance(found, dict):
            tokenizer.chat_template = {name: self._complete(text) for name, text in found.items()}
        elif found:
            tokenizer.chat_template = self._complete(found)

    def exported(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """The text that goes with a trained model, so that it behaves as in training: with the arguments, but without
        a date.

        Args:
            tokenizer: the base's, as it is.
        """
        if self.file:
            return set_defaults(Path(self.file).read_text(encoding="utf-8"), self.arguments)
        return set_defaults(tokenizer.get_chat_template(), self.arguments)

    def _complete(self, text: str) -> str:
        text = set_defaults(text, self.arguments)
        return freeze_date(text, Date.fromisoformat(self.date)) if self.date else text


def set_defaults(template: str, arguments: Mapping[str, bool | int | float | str]) -> str:
    """The template with values for arguments that it is not given. One that has them already is returned as it is."""
    line = "".join(
        f"{{% if {name} is not defined %}}{{% set {name} = {_literal(value)} %}}{{% endif %}}"
        for name, value in arguments.items()
    )
    return template if not line or template.startswith(line) else f"{line}\n{template}"


def _literal(value: bool | int | float | str) -> str:
    """In Jinja, which reads strings and numbers like JSON's."""
    return json.dumps(value, ensure_ascii=False)


def freeze_date(template: str, day: Date) -> str:
    """The template with a clock that has stopped: `strftime_now` gives `day`, at midnight.

    A template that writes the date would otherwise give a run other prompts after midnight.
    """
    if "strftime_now" not in template:
        return template
    at = datetime(day.year, day.month, day.day)
    names = [*(f"%-{name}" for name in "dmHIMSjy"), *(f"%{name}" for name in DIRECTIVES)]
    replaced = "".join(f" | replace({_literal(name)}, {_literal(at.strftime(name))})" for name in names)
    return f"{{% macro strftime_now(format) %}}{{{{ format{replaced} }}}}{{% endmacro %}}\n{template}"


def prompt_token_ids(tokenizer: PreTrainedTokenizerBase, prompt: Conversation) -> list[int]:
    """The chat template around a conversation, ready for the next answer.

    Raises:
        UserError: as `fill_template`.
    """
    return encode_conversation(tokenizer, prompt, opened=True)


def encode_conversation(tokenizer: PreTrainedTokenizerBase, messages: Conversation, *, opened: bool) -> list[int]:
    """Token ids of a conversation in the chat template.

    The template writes its own BOS where the model wants one, so the tokenizer must not add a second. What messages
    spell is text, also where it looks like a control token.

    Raises:
        UserError: as `fill_template`.
    """
    guard = guard_of(tokenizer)
    contents = [message["content"] for message in messages]
    if any(map(guard.pattern.search, contents)):
        mark = choose_mark(*contents)
        hidden: Conversation = [{"role": m["role"], "content": guard.hide(m["content"], mark)} for m in messages]
        return guard.encode_around(fill_template(tokenizer, hidden, opened=opened), mark)
    text = fill_template(tokenizer, messages, opened=opened)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def fill_template(
    tokenizer: PreTrainedTokenizerBase, messages: Conversation, *, opened: bool, arguments: Arguments | None = None
) -> str:
    """A conversation as the chat template writes it.

    Args:
        opened: end with the opening of an answer, which the model is to write.
        arguments: go before those of the template.

    Raises:
        UserError: the template cannot be read, refuses these messages (some take no system message), or leaves the
            system message out.
    """
    from jinja2 import TemplateSyntaxError

    do = "remove or change the messages that it does not accept, or use another chat template"
    try:
        plain = cast("list[dict[str, str]]", messages)
        given = dict(arguments or {})
        filled = tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=opened, **given)  # type: ignore[arg-type]
        text = str(filled)
    except TemplateSyntaxError as error:
        what = f"the chat template is not valid Jinja: {error.message}"
        raise UserError(
            what, where=tokenizer.name_or_path, do="correct the template, or name another in models.chat_template"
        ) from error
    except Exception as error:  # a template is code, which may fail in any way on what it is given
        roles = ", ".join(message["role"] for message in messages)
        what = f"the chat template refuses a conversation of the roles {roles}: {error}"
        raise UserError(what, where=tokenizer.name_or_path, do=do) from error
    if any(m["role"] == "system" and m["content"].strip() not in text for m in messages):
        raise UserError("the chat template leaves the system message out", where=tokenizer.name_or_path, do=do)
    return text


def template_ends(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens with which the chat template ends an answer, the last one of a conversation first; [] if it writes
    none, or refuses conversations with an answer."""
    mark = "\x02answer\x03"
    asked = wrap_text("?")
    guard = guard_of(tokenizer)
    ends: list[int] = []
    answered: Conversation = [*asked, {"role": "assistant", "content": mark}]
    talks: list[Conversation] = [answered, [*answered, *asked], [{"role": "system", "content": "!"}, *answered]]
    for talk in talks:
        try:
            text = fill_template(tokenizer, talk, opened=False)
        except UserError:
            continue
        found = guard.pattern.match(text.partition(mark)[2].lstrip())
        if found and guard.ids[found[0]] not in ends:
            ends.append(guard.ids[found[0]])
    return ends


def find_thinking(tokenizer: PreTrainedTokenizerBase) -> UserError | None:
    """Why a model would write its reasoning in front of its answers, where its chat template says so."""
    source, asked = template_source(tokenizer), wrap_text("?")
    try:
        opened = fill_template(tokenizer, asked, opened=True)
    except UserError:
        return None  # the prompts themselves will show what is wrong
    what = "the model writes its reasoning before its answers, and reasoning is not supported"
    for name in SWITCHES:
        if re.search(rf"\b{name}\b", source):
            quiet = fill_template(tokenizer, asked, opened=True, arguments={name: False})
            if opened != quiet:
                do = f"set models.template_arguments: {{{name}: false}}"
                return UserError(what, where=tokenizer.name_or_path, do=do)
    if opened.rstrip().endswith(OPENINGS) or HARMONY in source:
        do = "use a model, or a template in models.chat_template, that begins with the answer"
        return UserError(what, where=tokenizer.name_or_path, do=do)
    return None


def check_template(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[tuple[str, Conversation]]
) -> Iterator[UserError]:
    """What is wrong with a chat template: it cannot be read, it makes the model think, or it refuses conversations.

    Args:
        conversations: by what users call them. One of each sequence of roles is rendered.
    """
    by_roles: dict[tuple[str, ...], tuple[str, Conversation]] = {}
    for name, messages in conversations:
        by_roles.setdefault(tuple(message["role"] for message in messages), (name, messages))
    refused = False
    for name, messages in by_roles.values():
        try:
            fill_template(tokenizer, messages, opened=messages[-1]["role"] != "assistant")
        except UserError as error:
            refused = True
            yield UserError(error.what, where=f"{name}; {error.where}", do=error.do)
            if "not valid Jinja" in error.what:
                return
    if not refused:
        found = find_thinking(tokenizer)
        if found is not None:
            yield found
