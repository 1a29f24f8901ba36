"""How `--help` reads: words as metavars, options in groups, examples. Plain text of up to 120 columns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from typer import Typer
from typer._click import Context, HelpFormatter
from typer._click.exceptions import UsageError
from typer.core import TyperCommand, TyperGroup

from icr.commands.examples import EXAMPLES
from icr.commands.usage import explain, find_command, find_option

if TYPE_CHECKING:
    from typer._click import Parameter
    from typer._click.core import Command as AnyCommand

WIDTH = 120
"""Columns that help takes on a wide terminal. Prose gets hard to read beyond."""
OTHER = "Options"
"""The group of an option that names none. Groups are `rich_help_panel`, which typer itself draws as boxes."""
LAST = "Output"
"""The group that comes last, with `--help`."""
COMMANDS = {
    "A run": ("init", "recipes", "validate", "plan", "iterate", "compare"),
    "Results of a run": ("status", "report", "best", "chat", "export", "judge", "human", "lc"),
    "One stage of a round": ("sample", "score", "pair", "train"),
    "Data": ("data", "prompts"),
    "Other trainings and measurements": ("sft", "rm", "best-of-n", "rl", "transfer"),
    "This machine": ("env",),
}
"""The groups of `icr --help`. A command of no group is among `Commands`."""
UNBREAKABLE = str.maketrans({" ": "\u00a0", "-": "\u2011"})
PLAIN = str.maketrans({"\u00a0": " ", "\u2011": "-"})


class Formatter(HelpFormatter):
    """Breaks no line after a hyphen, between brackets or between quotes: paths and values stay whole."""

    def write(self, string: str) -> None:
        super().write(string.translate(PLAIN))

    def write_text(self, text: str) -> None:
        super().write_text(_keep(text))

    def write_dl(self, rows: Sequence[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        super().write_dl([(name, _keep(text)) for name, text in rows], col_max, col_spacing)


def _keep(text: str) -> str:
    return re.sub(r"\[[^\[\]]*\]|(?<!\w)'[^']*'(?!\w)|\S*-\S*", lambda part: part[0].translate(UNBREAKABLE), text)


class HelpContext(Context):
    formatter_class = Formatter


class Command(TyperCommand):
    context_class = HelpContext

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """As click's, but the error says what was probably meant."""
        ctx.allow_extra_args = True  # they are refused below
        given = list(args)
        try:
            extra = super().parse_args(ctx, args)
        except UsageError as error:
            explain(error, self, ctx, given)
            raise
        if extra and not ctx.resilient_parsing:
            ctx.fail(f"Unexpected argument {extra[0]}.{find_option(self, ctx, extra[0])}")
        return extra

    def collect_usage_pieces(self, ctx: Context) -> list[str]:
        """Typer writes an argument that must be there as {CONFIG}."""
        _name_parameters(self, ctx)
        pieces = super().collect_usage_pieces(ctx)
        return [re.sub(r"^\{(.+)\}(\.\.\.)?$", r"\1\2", piece) for piece in pieces]

    def format_options(self, ctx: Context, formatter: HelpFormatter) -> None:
        _write_parameters(self, ctx, formatter)

    def format_epilog(self, ctx: Context, formatter: HelpFormatter) -> None:
        _write_examples(ctx, formatter)


class Group(TyperGroup):
    context_class = HelpContext

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except UsageError as error:
            explain(error, self, ctx, given)
            raise

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, AnyCommand | None, list[str]]:
        """As typer's, but for a config or a run the error names the command to use."""
        number = ctx.params.get("round_")  # click parses a word that begins with / once more, as options
        try:
            return super().resolve_command(ctx, args)
        except UsageError as error:
            error.message += find_command(self, ctx, args, number)
            raise

    def format_options(self, ctx: Context, formatter: HelpFormatter) -> None:
        _write_parameters(self, ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        groups: dict[str, list[str]] = {name: [] for name in (*COMMANDS, "Commands")}
        for name in self.list_commands(ctx):
            known = ctx.parent is None
            groups[next((g for g, names in COMMANDS.items() if known and name in names), "Commands")].append(name)
        width = max(map(len, self.list_commands(ctx)))
        for group, names in groups.items():
            if names:
                with formatter.section(group):
                    short = {
                        name: self.commands[name].get_short_help_str(formatter.width - width - 6) for name in names
                    }
                    formatter.write_dl([(name.ljust(width), text) for name, text in short.items()])

    def format_epilog(self, ctx: Context, formatter: HelpFormatter) -> None:
        _write_examples(ctx, formatter)


def command_name(ctx: Context) -> str:
    """A command without the program: `rm train`; empty for `icr` itself."""
    parts: list[str] = []
    at: Context | None = ctx
    while at is not None and at.parent is not None:
        parts.insert(0, at.info_name or "")
        at = at.parent
    return " ".join(parts)


def _name_parameters(command: AnyCommand, ctx: Context) -> None:
    """A parameter that names no metavar gets N if it is a number, else its own name."""
    for parameter in command.get_params(ctx):
        if parameter.metavar is None:
            described = getattr(parameter, "type_descriptor", None)
            number = described is not None and described.annotation in (int, float)
            parameter.metavar = "N" if number else parameter.name.strip("_").upper().replace("_", "-")


def _write_parameters(command: AnyCommand, ctx: Context, formatter: HelpFormatter) -> None:
    """Arguments, then the options of each group; in all groups the descriptions begin in one column."""
    _name_parameters(command, ctx)
    groups: dict[str, list[tuple[str, str]]] = {"Arguments": [], OTHER: []}
    for parameter in command.get_params(ctx):
        record = _describe(parameter, ctx)
        if record is not None:
            groups.setdefault(_group(parameter), []).append(record)
    last = groups.pop(LAST, [])
    groups.setdefault(LAST if len(last) > 1 else OTHER, []).extend(last)  # --help alone is not a group
    column = min(max((len(name) for records in groups.values() for name, _ in records), default=0), 30)
    for group, records in groups.items():
        if records:
            with formatter.section(group):
                formatter.write_dl([(name.ljust(column), text) for name, text in records])


def _group(parameter: Parameter) -> str:
    if parameter.param_type_name == "argument":
        return "Arguments"
    own: str | None = getattr(parameter, "rich_help_panel", None)
    return own or (LAST if "--help" in parameter.opts else OTHER)


def _describe(parameter: Parameter, ctx: Context) -> tuple[str, str] | None:
    """`--seed N` and its help. Typer's own record has types for metavars, and x>=1 for a range."""
    record = parameter.get_help_record(ctx)
    if record is None:
        return None
    name, text = record
    if parameter.param_type_name == "argument":
        name = f"{parameter.metavar}" + ("..." if parameter.nargs != 1 else "")
    text = re.sub(r"(-?[\d.]+)<=x<=(-?[\d.]+)(?=[;\]])", r"\1 to \2", text)
    return name, re.sub(r"\bx>=(-?[\d.]+)(?=[;\]])", r"at least \1", text)


def _write_examples(ctx: Context, formatter: HelpFormatter) -> None:
    examples = EXAMPLES.get(command_name(ctx), ())
    if examples:
        with formatter.section("Example" if len(examples) == 1 else "Examples"):
            indent = " " * formatter.current_indent
            for example in examples:
                formatter.write("".join(f"{indent}{line}\n" for line in example.splitlines()))


def use_plain_help(app: Typer) -> None:
    """All commands of an app, and of the apps in it, read as this file says."""
    app.info.cls = Group
    for command in app.registered_commands:
        command.cls = Command
    for group in app.registered_groups:
        if group.typer_instance is not None:
            use_plain_help(group.typer_instance)
