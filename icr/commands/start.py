"""`icr recipes` and `icr init`: a config to begin with."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icr.base.errors import ConfigError, UserError
from icr.commands.options import OUTPUT, JsonOption, print_json, stdout

if TYPE_CHECKING:
    from icr.config.kinds import Kind

START = "start.yaml.j2"
QUESTIONS = (
    ("policy", "Model to improve (hub id or folder)", "princeton-nlp/Llama-3-Base-8B-SFT-DPO"),
    ("reference", "Model that it was aligned from", "princeton-nlp/Llama-3-Base-8B-SFT"),
    ("languages", "Languages (two-letter codes; English is always one)", "es, sw, th"),
    ("prompts", "Folder of the prompts, one LANG.jsonl per language", "./data/prompts"),
    ("judge", "Judge: openai (any compatible endpoint), local, or none", "none"),
)
JUDGE_QUESTIONS = {
    "openai": ("The judge's model, as its server calls it", "Qwen3-30B-A3B-Instruct-2507@0d7cf23"),
    "local": ("The judge's model (hub id or folder)", "Qwen/Qwen3-30B-A3B-Instruct-2507"),
}
"""The first is served as docs/evaluation.md shows."""


def recipes(json_: JsonOption = False) -> None:
    """List the recipes that come with icr."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from icr.config.kinds import list_recipes

    found = {name: {"command": kind.command, "is": _describe(path)} for name, (path, kind) in list_recipes().items()}
    if json_:
        print_json(found)
        return
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("recipe", no_wrap=True)
    table.add_column("command", no_wrap=True)
    table.add_column("is")
    for name, recipe in found.items():
        table.add_row(Text(name), Text(recipe["command"]), Text(recipe["is"]))
    stdout().print(table)
    print("Copy one with: icr init RECIPE -o my.yaml")


def init(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="A recipe to copy. Without one, a new config is written.")
    ] = None,
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FILE", help="The file to write.", rich_help_panel=OUTPUT)
    ] = Path("icr.yaml"),
    yes: Annotated[bool, typer.Option("--yes", help="Ask no questions; use the defaults.")] = False,
) -> None:
    """Write a config to begin with.

    Copies RECIPE, or writes a new config. On a terminal it asks for models, languages, prompts and judge.
    """
    from icr.base.files import write_text
    from icr.config.kinds import SCHEMA_LINE, schema_file, write_command
    from icr.config.schema import CONFIGS, Config

    if out.exists():
        raise UserError(f"{out} exists", where="--out", do="choose another file, or remove this one")
    if out.suffix not in (".yaml", ".yml"):
        raise UserError(f"{out} is not a .yaml file", where="--out", do=f"write -o {out.with_suffix('.yaml')}")
    terminal = sys.stdin.isatty()
    if not (recipe or terminal or yes):
        print("note: no terminal, so the defaults were used; edit the file", file=sys.stderr)
    text, kind = _copy(recipe) if recipe else (_fill(out, CONFIGS, asks=terminal and not yes), Config)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, f"{SCHEMA_LINE}{schema_file(kind)}\n{text}")
    check = [f"icr validate {out}"] if kind is Config else []
    print(f"wrote {out}\n\nnext:", *check, write_command(kind, out), sep="\n  ")


def _describe(path: Path) -> str:
    """The first sentence of a recipe's comment."""
    from icr.config.kinds import SCHEMA_LINE

    lines = path.read_text(encoding="utf-8").splitlines()
    comment = [line for line in lines[: _first_key(lines)] if not line.startswith(SCHEMA_LINE)]
    text = " ".join(line.removeprefix("#").strip() for line in comment)
    return re.split(r"(?<=[.!?]) (?=[A-Z])", text, maxsplit=1)[0]


def _first_key(lines: list[str]) -> int:
    return next(i for i, line in enumerate(lines) if not line.startswith("#"))


def _copy(recipe: str) -> tuple[str, Kind]:
    """A recipe's text and kind. What it names inside the package has its full path, as the copy is elsewhere."""
    from icr.config.kinds import SCHEMA_LINE, find_any_recipe
    from icr.config.schema import CONFIGS

    path, kind = find_any_recipe(recipe)
    text = path.read_text(encoding="utf-8")
    text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith(SCHEMA_LINE))
    return re.sub(r"(?<=: )\.\./(\S+)", lambda path: str(CONFIGS.parent / path[1]), text), kind


def _fill(out: Path, configs: Path, *, asks: bool) -> str:
    """A new config from answers, or from the questions' defaults."""
    from jinja2 import Environment, StrictUndefined

    checks: dict[str, Callable[[str], object]] = {"languages": _languages, "judge": _check_judge}
    answers = {key: _answer(question, default, asks, checks.get(key)) for key, question, default in QUESTIONS}
    if answers["judge"] != "none":
        answers["judge_model"] = _answer(*JUDGE_QUESTIONS[answers["judge"]], asks)
        answers["heldout"] = _answer("Folder of the held-out prompts", "./data/heldout", asks)
    languages = _languages(answers["languages"])
    template = Environment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(
        (configs / START).read_text(encoding="utf-8")
    )
    filled: str = template.render({**answers, "languages": languages, "name": out, "stem": out.stem})
    return filled


def _answer(question: str, default: str, asks: bool, check: Callable[[str], object] | None = None) -> str:
    """What the user writes, asked for again while `check` refuses it."""
    prompt: Callable[..., str] = typer.prompt
    while asks:
        text = prompt(question, default=default, err=True).strip()
        try:
            if check is not None:
                check(text)
            return text
        except UserError as error:
            problems = error.problems if isinstance(error, ConfigError) else [error]
            print(*(f"{problem.what}: {problem.do}" for problem in problems), sep="\n", file=sys.stderr)
    return default


def _check_judge(text: str) -> None:
    if text not in ("openai", "local", "none"):
        raise UserError(f"unknown judge {text}", do="answer openai, local or none")


def _languages(text: str) -> list[str]:
    """The codes, English first."""
    from icr.languages import check_languages

    codes = [code for code in re.split(r"[\s,]+", text) if code]
    codes = ["en", *(code for code in codes if code != "en")]
    check_languages(codes, "languages")
    return codes
