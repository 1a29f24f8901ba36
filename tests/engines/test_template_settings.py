"""What a chat template is given beside the conversation: arguments, a date, and whether the model is to think."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from icr.base.conversation import wrap_text
from icr.engines.templates import (
    NO_THINKING,
    Template,
    check_template,
    fill_template,
    find_thinking,
    freeze_date,
    set_defaults,
)
from tests.helpers.tiny_models import CHAT_TEMPLATE, make_tokenizer

SWITCHED = CHAT_TEMPLATE + (
    "{% if add_generation_prompt and enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}"
)
"""As Qwen 3's: it thinks unless it is told not to."""
OFF = CHAT_TEMPLATE + "{% if add_generation_prompt and thinking %}<think>{% endif %}"
"""As DeepSeek V3.1's: it thinks only if it is told to."""
ALWAYS = CHAT_TEMPLATE + "{% if add_generation_prompt %}<think>\n{% endif %}"
HOUR = "{{ strftime_now('%d %b %Y, %H:%M:%S') }}|{{ strftime_now('%Y-%m-%d %A %B %-d') }}"


@pytest.fixture
def tokenizer() -> Any:
    return make_tokenizer()


def opened(tokenizer: Any, template: str, **arguments: Any) -> str:
    tokenizer.chat_template = template
    return fill_template(tokenizer, wrap_text("?"), opened=True, arguments=arguments)


def test_arguments_are_defaults_of_the_template_itself(tokenizer: Any) -> None:
    shown = "{{ a }}|{{ b is sameas false }}|{{ c }}|{% for m in messages %}{{ d }}{% endfor %}"
    text = '"quoted" \\ {{ x }} ñ 😀\n'
    template = set_defaults(shown, {"a": text, "b": False, "c": 1.5, "d": 3})
    assert opened(tokenizer, template) == f"{text}|True|1.5|3"
    assert (
        opened(tokenizer, template, b=True, d="own") == f"{text}|False|1.5|own"
    )  # whoever uses the model may change it
    assert set_defaults(template, {"a": text, "b": False, "c": 1.5, "d": 3}) == template
    again = set_defaults(template, {"b": True})  # a run on an exported model
    assert opened(tokenizer, again) == f"{text}|False|1.5|3"
    assert set_defaults(shown, {}) == shown
    # white space at the beginning of a template is still the template's own
    assert opened(tokenizer, set_defaults("  {% if true %}\n  x{% endif %}", {"a": 1})) == "  x"
    assert opened(tokenizer, set_defaults("\n x", {"a": 1})) == opened(tokenizer, "\n x")


def test_the_clock_of_a_template_stands_still(tokenizer: Any) -> None:
    frozen = freeze_date(HOUR, date(2026, 3, 7))
    assert opened(tokenizer, frozen) == "07 Mar 2026, 00:00:00|2026-03-07 Saturday March 7"
    llama = (
        "{% if not date_string is defined %}{% if strftime_now is defined %}"
        "{% set date_string = strftime_now('%d %b %Y') %}{% endif %}{% endif %}Today: {{ date_string }}"
    )
    assert opened(tokenizer, freeze_date(llama, date(2026, 3, 7))) == "Today: 07 Mar 2026"
    both = Template(arguments={"date_string": "1 May"}, date="2026-03-07")
    tokenizer.chat_template = llama
    both.apply(tokenizer)
    assert fill_template(tokenizer, wrap_text("?"), opened=True) == "Today: 1 May"
    assert freeze_date(CHAT_TEMPLATE, date(2026, 3, 7)) == CHAT_TEMPLATE


def test_what_is_exported_has_the_arguments_but_no_date(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.chat_template = HOUR + SWITCHED
    template = Template(arguments={"enable_thinking": False}, date="2026-03-07")
    exported = template.exported(tokenizer)
    assert exported.endswith(HOUR + SWITCHED) and opened(tokenizer, exported).endswith("<think>\n\n</think>\n\n")
    (tmp_path / "own.jinja").write_text(OFF)
    assert Template(file=str(tmp_path / "own.jinja")).exported(tokenizer) == OFF
    tokenizer.chat_template = {"default": SWITCHED, "tool_use": OFF}
    assert template.exported(tokenizer).endswith(SWITCHED)
    template.apply(tokenizer)
    assert fill_template(tokenizer, wrap_text("?"), opened=True).endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize(
    ("template", "arguments", "do"),
    [
        (CHAT_TEMPLATE, {}, None),
        (CHAT_TEMPLATE, {"enable_thinking": True}, None),
        (SWITCHED, {}, "set models.template_arguments: {enable_thinking: false}"),
        (SWITCHED, {"enable_thinking": True}, "set models.template_arguments: {enable_thinking: false}"),
        (SWITCHED, {"enable_thinking": False}, None),
        (SWITCHED, NO_THINKING, None),
        (OFF, {}, None),
        (OFF, {"thinking": True}, "set models.template_arguments: {thinking: false}"),
        (ALWAYS, {"enable_thinking": False}, "use a model, or a template in models.chat_template"),
        ("{# <|channel|>analysis #}" + CHAT_TEMPLATE, {}, "use a model, or a template in models.chat_template"),
        # a template that only removes the reasoning of earlier answers
        (CHAT_TEMPLATE.replace("message['content']", "message['content'].split('</think>')[-1]"), {}, None),
    ],
)
def test_models_that_think_are_known_by_their_templates(
    tokenizer: Any, template: str, arguments: Any, do: str | None
) -> None:
    tokenizer.chat_template = template
    Template(arguments=arguments).apply(tokenizer)
    problem = find_thinking(tokenizer)
    assert (problem is None) == (do is None)
    if problem is not None and do is not None:
        assert problem.do is not None and problem.do.startswith(do) and "reasoning" in problem.what
        assert [p.do for p in check_template(tokenizer, [("p1", wrap_text("?"))])] == [problem.do]


def test_a_broken_template_is_said_once(tokenizer: Any) -> None:
    talks: Any = [("p1", wrap_text("?")), ("p2", [{"role": "system", "content": "!"}, *wrap_text("?")])]
    for broken, what in (
        ("{% for m in messages %}{{ m.content }}", "not valid Jinja"),
        ("{{ 1 / 0 }}", "refuses a conversation of the roles user: division by zero"),
        ("{{ messages[5].content.x }}", "refuses a conversation of the roles user"),
    ):
        tokenizer.chat_template = broken
        problems = list(check_template(tokenizer, talks[:1] if "Jinja" not in what else talks))
        assert len(problems) == 1 and what in problems[0].what and problems[0].where.startswith("p1")
