"""The kinds of configs, one for each command that reads a file of its own, and the recipes of each."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path

from icr.base.errors import UserError, some
from icr.config.reward_model import RECIPES, RewardModelConfig
from icr.config.rl import RLConfig
from icr.config.schema import CONFIGS, Config
from icr.config.sft import SftConfig
from icr.config.transfer import TransferConfig
from icr.config.values import Section

Kind = type[Section]
KINDS: tuple[Kind, ...] = (Config, RewardModelConfig, SftConfig, RLConfig, TransferConfig)
SCHEMA_LINE = "# yaml-language-server: $schema="
"""How the first line of a config begins that names its JSON schema; editors read it."""


def schema_file(kind: Kind) -> Path:
    """The JSON schema of a kind. `python -m docs.make_schema` writes it."""
    name = "icr" if kind is Config else kind.command.removeprefix("icr ").replace(" ", "-")
    return CONFIGS / f"{name}.schema.json"


def write_command(kind: Kind, config: object) -> str:
    """The command that takes a config of this kind, as it is typed."""
    return f"{kind.command}{' --config' if kind is Config else ''} {config}"


def list_recipes() -> dict[str, tuple[Path, Kind]]:
    """Name → file and kind of every recipe, those of a run first.

    A name that a run's recipe has as well has its folder before it: `icr rm train` takes it with and without.
    """
    found: dict[str, tuple[Path, Kind]] = {file.stem: (file, Config) for file in sorted(CONFIGS.glob("*.yaml"))}
    for file in sorted(RECIPES.glob("*.yaml")):
        name = f"{RECIPES.name}/{file.stem}" if file.stem in found else file.stem
        found[name] = file, _named_kind(file)
    return found


def _named_kind(recipe: Path) -> Kind:
    """The kind whose schema the first line of a recipe names."""
    with recipe.open(encoding="utf-8") as lines:
        schema = Path(next(lines).removeprefix(SCHEMA_LINE).strip()).name
    return next(kind for kind in KINDS if schema_file(kind).name == schema)


def find_any_recipe(name: str) -> tuple[Path, Kind]:
    """A recipe to copy, and its kind. Raises UserError where there is none of this name."""
    recipes = list_recipes()
    if name in recipes:
        return recipes[name]
    near = get_close_matches(name, recipes, 1)
    start = f"did you mean {near[0]}? " if near else ""
    if Path(name).suffix in (".yaml", ".yml"):
        start = f"to write this file: icr init -o {name}; "
    raise UserError(f"{name} is not a recipe", where="icr init", do=f"{start}icr recipes lists the recipes")


def find_recipe(name: str, kind: Kind) -> Path:
    """A recipe that a command takes; for its name a path may have been meant. Raises UserError."""
    recipes = list_recipes()
    named = {of: file for full, (file, of) in recipes.items() if name in (full, file.stem)}
    if kind in named:
        return named[kind]
    for other in named:
        what = f"{name} is a recipe of {other.command}, not of {kind.command}"
        raise UserError(what, do=f"write: {write_command(other, name)}")
    path = Path(name)
    if path.is_dir():
        file = next((file for file in (path / "config.yaml", *sorted(path.glob("*.yaml"))) if file.is_file()), None)
        raise UserError(f"{name} is a folder", do=f"name a file, such as {file}" if file else "name a YAML file")
    if len(path.parts) > 1 or path.suffix in (".yaml", ".yml", ".json"):
        raise UserError(f"file {name} not found", do="check the path; icr recipes lists the recipes")
    known = [full for full, (_, of) in recipes.items() if of is kind]
    near = get_close_matches(name, known, 1)
    start = f"did you mean {near[0]}?" if near else f"give a path, or the name of a recipe: {some(known)};"
    do = f"{start} icr recipes lists the recipes" if known else f"give the path of a YAML file; {kind.page} shows one"
    raise UserError(f"config {name} not found", do=do)


def refuse_other_kind(kind: Kind, keys: Collection[str], path: Path) -> None:
    """Raises UserError where the keys at the top of a faulty file are those of another command's config."""

    def misses(of: Kind) -> int:
        """Keys that this kind does not know, and keys that it needs and are not there."""
        required = {name for name, field in of.model_fields.items() if field.is_required()}
        return len(set(keys) - of.model_fields.keys()) + len(required - set(keys))

    other = min(KINDS, key=misses)
    if kind in KINDS and 2 * misses(other) < misses(kind):  # by far, as either may have a misspelled key
        unknown = [key for key in keys if key not in kind.model_fields]
        raise UserError(
            f"{path} is a config of {other.command}, not of {kind.command}",
            where=f"the keys {some(unknown)}",
            do=f"write: {write_command(other, path)}",
        )
