"""What is said of words that do not fit a command: which ones were probably meant, with what the user has typed."""

from __future__ import annotations

import os
import re
import shlex
from typing import TYPE_CHECKING

from typer._click.exceptions import BadParameter, MissingParameter, NoSuchOption, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typer._click import Context
    from typer._click.core import Command

PLACE = re.compile(r"\bRUN(/round-N(/judge)?)?")
"""How help writes an argument that is a run, or a place in one."""


def explain(error: UsageError, command: Command, ctx: Context, given: Sequence[str]) -> None:
    """Write into the error what to do, where that can be known from `given`, the words after the command."""
    if isinstance(error, MissingParameter):
        error.message = _explain_missing(error, command, ctx, given)
    elif isinstance(error, BadParameter):
        error.message = _explain_value(error)
    elif isinstance(error, NoSuchOption) and (meant := _as_argument(error.option_name, command, given)):
        error.message += f". Write: {shlex.join([*ctx.command_path.split(), *meant])}"
        error.possibilities = None


def find_option(command: Command, ctx: Context, argument: str) -> str:
    """The option that an argument was probably meant for: `--run` for a folder, else `--config`."""
    asked = "--run" if os.path.isdir(argument) else "--config"
    free = [p for p in command.params if asked in p.opts and not ctx.params.get(p.name)]
    return f" Did you mean {asked} {argument}?" if free else ""


def find_command(group: Command, ctx: Context, words: Sequence[str], number: int | None) -> str:
    """The command that words were probably meant for which begin with a config or a run: `icr my.yaml`, `icr runs/a`,
    `icr judge runs/a`.

    Args:
        number: of a --round before the words.
    """
    if ctx.parent is None and words[0].endswith((".yaml", ".yml")):
        return f" Did you mean {ctx.command_path} iterate --config {words[0]}?"
    if not os.path.isdir(words[0]):
        return ""
    if ctx.parent is None:
        return f" Did you mean {ctx.command_path} status {words[0]}?"
    if not any("--run" in parameter.opts for parameter in group.params):
        return ""
    meant = ["--run", *words]
    if not any(word.startswith("--round") for word in words):
        meant += ["--round", "N" if number is None else str(number)]
    return f" Did you mean {ctx.command_path} {shlex.join(meant)}?"


def _explain_missing(error: MissingParameter, command: Command, ctx: Context, given: Sequence[str]) -> str:
    """The option with the argument that was probably meant for it, else what the parameter is."""
    _, extra, _ = command.make_parser(ctx).parse_args(list(given))
    if extra and error.param is not None and error.param.param_type_name == "option":
        return f"Did you mean {error.param.opts[-1]} {extra[0]}?"
    return str(getattr(error.param, "help", None) or error.message)


def _explain_value(error: BadParameter) -> str:
    """typer's words for a value are those of its parsing library, and of a folder `dir`."""
    from pydantic import ValidationError

    if found := re.fullmatch(r"dir '(.*)' is a file\.", error.message):
        return f"{found[1]} is a file, not a folder"
    if not isinstance(error.__cause__, ValidationError):
        return error.message
    problem = error.__cause__.errors()[0]
    kind, value, limits = problem["type"], problem["input"], problem.get("ctx", {})
    if kind in ("int_parsing", "int_from_float"):
        return f"'{value}' is not a whole number"
    if kind == "float_parsing":
        return f"'{value}' is not a number"
    if kind == "greater_than_equal":
        return f"{value} is less than {limits['ge']}"
    if kind == "less_than_equal":
        return f"{value} is more than {limits['le']}"
    return error.message


def _as_argument(option: str, command: Command, given: Sequence[str]) -> list[str]:
    """What was typed with the value of an unknown option as the argument that it is, RUN for --run; empty where the
    command has no such argument."""
    name = option.removeprefix("--").upper()
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            place = PLACE.search(f"{parameter.metavar} {getattr(parameter, 'help', '')}") if name == "RUN" else None
            if place:
                return _put_first(place[0], name, option, given)
            if parameter.metavar == name:
                return _put_first(name, name, option, given)
    return []


def _put_first(place: str, name: str, option: str, given: Sequence[str]) -> list[str]:
    """The argument, then the other words. A place in a round takes the number from --round."""
    words = list(given)
    value = (_take(words, option) or name).rstrip("/")
    if "round-N" in place:
        number = _take(words, "--round")
        if re.fullmatch(r"round-\d+", os.path.basename(value)):
            place = place.replace("/round-N", "", 1)
        place = place.replace("round-N", f"round-{number}") if number else place
    return [place.replace(name, value, 1), *words]


def _take(words: list[str], option: str) -> str | None:
    """Remove an option and its value from the words; the value, if it has one."""
    for at, word in enumerate(words):
        if word.startswith(f"{option}="):
            return words.pop(at).partition("=")[2]
        if word == option:
            words.pop(at)
            return words.pop(at) if at < len(words) and not words[at].startswith("-") else None
    return None
