"""Results go to stdout, messages and progress to stderr; `--json` and `--quiet` in one way for all commands."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from icr.base.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from eval.estimate import Forecast
    from icr.config.values import Section

S = TypeVar("S", bound="Section")

OUTPUT = "Output"
"""The group of options that say where results go and what is shown; it is the last one (icr/commands/help.py)."""
ConfigArgument = Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, or the name of a recipe.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
RunOption = Annotated[Path | None, typer.Option("--run", metavar="RUN", help="The run folder.", show_default=False)]
OfRunOption = Annotated[Path, typer.Option("--run", metavar="RUN", help="The run folder.")]
LanguagesOption = Annotated[
    str, typer.Option("--languages", metavar="LANGS", help="Comma-separated ISO 639-1 codes, e.g. es,sw,th.")
]
OutRunOption = Annotated[
    Path | None,
    typer.Option("--run", metavar="FOLDER", help="Output folder; overrides the config's.", rich_help_panel=OUTPUT),
]
DryOption = Annotated[bool, typer.Option("--dry-run", help="Print estimated calls, tokens and cost; send nothing.")]


def _set(example: str) -> Any:
    """`--set`, with a key that the command's config has."""
    words = f"Override a config key, e.g. --set {example}. May be repeated."
    return typer.Option("--set", metavar="KEY=VALUE", help=words)


SetOption = Annotated[list[str] | None, _set("judge.budget=5")]
TrainSetOption = Annotated[list[str] | None, _set("train.epochs=2")]
TransferSetOption = Annotated[list[str] | None, _set("data.limit=600")]
OutOption = Annotated[
    Path,
    typer.Option(
        "--out",
        metavar="FOLDER",
        file_okay=False,
        help="Output folder. Rerun the same command to resume.",
        rich_help_panel=OUTPUT,
    ),
]
ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="ADDRESS",
        help="Use the workers of a Ray cluster: auto for the one this machine belongs to, or HOST:PORT.",
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON, alone on stdout.", rich_help_panel=OUTPUT)
]
_QUIET = False
"""Whether this command was asked to be quiet. A command is a process."""


def _be_quiet(asked: bool) -> None:
    global _QUIET
    _QUIET = _QUIET or asked  # a group and its command both have the option


def start_loud() -> None:
    """Forget the `--quiet` of an earlier command in this process."""
    global _QUIET
    _QUIET = False


QuietOption = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        help="Show no progress and no notes, only results and errors.",
        callback=_be_quiet,
        rich_help_panel=OUTPUT,
    ),
]


def print_json(result: object) -> None:
    """A result alone on stdout. Paths become texts."""
    print(json.dumps(result, ensure_ascii=False, indent=2, default=str))


def print_forecast(found: Forecast, json_: bool) -> None:
    """What `--dry-run` shows."""
    if json_:
        print_json(found.numbers())
    else:
        print("\n".join(found.lines or ["no judge: nothing is asked"]))


def split_codes(languages: str) -> list[str]:
    """The codes of `--languages`. Raises UserError where there are none."""
    codes = [code.strip() for code in languages.split(",") if code.strip()]
    if not codes:
        raise UserError("no language is given", where="--languages", do="write codes such as es,sw,th")
    return codes


def stdout() -> Console:
    from rich.console import Console

    return Console()


def stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True, quiet=_QUIET)


def load_checked(
    kind: type[S],
    name: str,
    overrides: Sequence[str] | None,
    run: Path | None,
    check: Callable[[S], object],
    changes: Mapping[str, object] | None = None,
) -> S:
    """The settings of a command that has a file of its own: `name` is the file or a recipe, `run` is --run.

    Args:
        changes: key → value of further options.

    Raises:
        UserError: as `find_config` and `load_section`.
        ConfigError: all that is wrong with the file, and then also what `check` finds.
    """
    from icr.base.problems import load_and_check
    from icr.config.load import find_config, load_section

    file, given = find_config(name, kind), {**(changes or {}), **({} if run is None else {"run": str(run)})}
    return load_and_check(lambda: load_section(kind, file, overrides or [], given), check)
