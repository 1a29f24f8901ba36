"""`--help`: words as metavars, whole sentences, groups, and examples that a shell and `icr` take."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from typer.core import TyperGroup

from icr.commands.examples import EXAMPLES
from icr.commands.help import COMMANDS
from icr.commands.main import KEEPS_NOTHING
from icr.config.load import find_config, make_config, make_section
from icr.config.reward_model import RewardModelConfig
from icr.config.rl import RLConfig
from icr.config.sft import SftConfig
from icr.config.values import Section
from icr.languages import check_languages
from tests.commands.test_docs import ICR, parse


def every_command(group: object = ICR, before: str = "") -> Iterator[str]:
    """Each command, and each group of commands, without the program."""
    yield before.strip()
    if isinstance(group, TyperGroup):
        for name, command in group.commands.items():
            yield from every_command(command, f"{before} {name}")


ALL = list(every_command())
LINES = [example.replace("\\\n", " ") for examples in EXAMPLES.values() for example in examples]


def find(name: str) -> Any:
    """The context of a command."""
    context: Any = ICR.make_context("icr", [], resilient_parsing=True)
    for word in name.split():
        context = context.command.commands[word].make_context(word, [], parent=context, resilient_parsing=True)
    return context


def shown(command: str, columns: int = 80) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(columns))
        return str(find(command).get_help())


@pytest.mark.parametrize("command", ALL, ids=lambda name: name or "icr")
def test_help_fits_and_says_words(command: str) -> None:
    for columns in (80, 120):
        text = shown(command, columns)
        assert max(map(len, text.splitlines())) <= columns
        assert "..." not in re.sub(r"\[?\b[A-Z]+\]?\.\.\.", "", text)  # but SOURCE... takes several
        assert "…" not in re.sub(r"://…", "", text), "cut, but an address of a bucket has one"
        assert not re.search(r"<\w|\b(INTEGER|FLOAT|PATH|DIRECTORY)\b|x>=|<=x", text)
        assert not re.search(r"\w-\n|\[[^\]\n]*\n", text), "a path, a name or a default is broken"


@pytest.mark.parametrize("command", ALL, ids=lambda name: name or "icr")
def test_sentences_are_whole(command: str) -> None:
    at = find(command).command
    texts = {parameter.name: getattr(parameter, "help", None) or "" for parameter in at.params} | {"": at.help or ""}
    assert not {name: text for name, text in texts.items() if not text.endswith((".", "?"))}


def test_groups() -> None:
    text = shown("iterate")
    options, output = text.index("\nOptions:\n"), text.index("\nOutput:\n")
    assert options < text.index("--config CONFIG") < output < text.index("--json") < text.index("\nExamples:\n")
    assert "--set KEY=VALUE" in text and "--rounds N" in text and "[at least 1]" in text
    assert "[OPTIONS] SOURCE...\n" in shown("rm data") and "[OPTIONS] [MODEL]...\n" in shown("rm look")
    translate = shown("prompts translate")
    assert translate.index("\nEndpoint:\n") < translate.index("--budget USD") < translate.index("\nOutput:\n")
    assert "\nOutput:\n" not in shown("") + shown("human"), "--help alone is not a group"
    listed = [name for names in COMMANDS.values() for name in names]
    assert set(listed) >= KEEPS_NOTHING
    assert set(find("").command.commands) <= set(listed) and len(set(listed)) == len(listed)


def test_every_command_has_an_example_and_no_other_has() -> None:
    assert set(EXAMPLES) == set(ALL)
    assert "icr rm train rmt-seahorse --run runs/rm\n" in shown("rm train")


@pytest.mark.parametrize("line", LINES)
def test_examples_are_taken(line: str) -> None:
    """The command and its options exist, recipes and languages too, and what is overridden is a key."""
    line = line.rsplit(" | ", 1)[-1]
    parse(line)
    words = shlex.split(line)
    for option, value in pairwise(words):
        if option in ("--languages", "--to") and words[1] != "export":
            check_languages(value.split(","), option)
        if option == "--vary":
            overridden(value.split("=")[0] + "=" + value.split("=")[1].split(",")[0], words)
        if option == "--set":
            overridden(value, words)
    if words[1] in ("validate", "plan", "compare", "init") and len(words) > 2 and words[2] not in ("my.yaml", "-o"):
        assert find_config(words[2]).is_file()
    for command in (["rm", "train"], ["sft"]):
        at = 1 + len(command)
        if words[1:at] == command and not words[at].endswith(".yaml"):
            assert find_config(words[at], RewardModelConfig if words[1] == "rm" else SftConfig).is_file()


def overridden(change: str, words: list[str]) -> None:
    """Raises ConfigError for a key that is unknown."""
    if words[1] == "rm":
        section: type[Section] = RewardModelConfig
        make_section(section, {"base": "org/model", "data": {"path": "data"}}, [change])
    elif words[1] == "sft":
        make_section(SftConfig, {"base": "org/model", "data": {"path": "data"}}, [change])
    elif words[1] == "rl":
        prompts = {"path": "p", "languages": ["es"]}
        make_section(RLConfig, {"policy": "org/sft", "reward": {"model": "org/rm"}, "prompts": prompts}, [change])
    else:
        models = {"policy": "org/aligned", "reference": "org/sft"}
        make_config({"models": models, "prompts": {"path": "p", "languages": ["en", "es"]}}, [change])


@pytest.mark.parametrize("command", sorted(EXAMPLES))
def test_examples_are_of_their_command_and_fit(command: str) -> None:
    for example in EXAMPLES[command]:
        assert re.search(rf"(^|\| )icr {command}", example)
        assert all(len(line) <= 76 for line in example.splitlines())
