"""From a YAML file and the command line to a checked Config; every problem found is reported together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from icr.base.errors import ConfigError, UserError
from icr.base.hub import PREFIX, means_path
from icr.base.secrets import hide_in
from icr.base.yaml_text import Document, Keys, dump_yaml, parse_yaml, read_yaml
from icr.config.explain import Origin, find_problems
from icr.config.kinds import Kind, find_recipe, refuse_other_kind
from icr.config.partial import drop_faults
from icr.config.reward_model import RECIPES
from icr.config.schema import CONFIGS, Config
from icr.config.values import Section

S = TypeVar("S", bound=Section)

PATHS: tuple[Keys, ...] = (
    ("run",),
    ("models", "chat_template"),
    ("chat_template",),
    ("alignment", "pairs"),
    ("data", "path"),
    ("data", "preferences"),
    ("data", "demonstrations"),
    ("data", "prompts"),
    ("reward_model", "chat_template"),
    ("align", "chat_template"),
    ("align", "dpo", "prompts"),
    ("align", "rl", "prompts"),
    ("align", "rl", "heldout", "path"),
    ("prompts", "path"),
    ("heldout", "path"),
    ("judge", "prompts"),
    ("judge", "baseline"),
    ("judge", "difficulty"),
    ("judge", "gamed"),
    ("judge", "template"),
    ("judge", "prices"),
    ("judge", "cache"),
    ("judge", "ends"),
    ("judge", "mtbench", "questions"),
    ("judge", "mtbench", "references"),
    ("judge", "nlp", "include_path"),
)
"""Keys that are a path, except for a data set on the hub (`hf:…`) and WORDS."""
PATHS_OR_NAMES: tuple[Keys, ...] = (
    ("models", "policy"),
    ("models", "reference"),
    ("model",),
    ("base",),
    ("reward", "model"),
    ("train", "deepspeed"),
    ("judge", "model"),
    ("align", "policy"),
    ("policy",),
    ("heldout", "reward_models"),
)
"""Keys that are a path when such a file or folder exists, else a hub id or a word."""
WORDS = ("round-0", "zero2", "zero3", "none", "judge")


def find_config(name: str, kind: Kind = Config) -> Path:
    """A path, or the name of a recipe that comes with icr.

    Args:
        kind: what the command takes.

    Raises:
        UserError: it is neither; it is a recipe of another command.
    """
    path = Path(name)
    return path if path.is_file() else find_recipe(name, kind)


def load_config(path: Path, overrides: Sequence[str] = (), changes: Mapping[str, object] | None = None) -> Config:
    """A run's config, as `load_section` reads it."""
    return load_section(Config, path, overrides, changes)


def load_section(
    kind: type[S], path: Path, overrides: Sequence[str] = (), changes: Mapping[str, object] | None = None
) -> S:
    """Read `path`, apply `key=value` overrides and then `changes` (key → value), and type-check the result.

    Paths in the file are relative to the file, paths in overrides to the working directory.

    Raises:
        UserError: the file is not YAML, or is the config of another command.
        ConfigError: unknown keys (with the nearest known one), ill-typed and missing values, all at once.
    """
    document = read_yaml(path, "the config")
    data = {} if document.data is None else document.data
    if not isinstance(data, dict):
        raise UserError(
            "the config is not a mapping of keys", where=str(path), do="write it as KEY: VALUE; configs/ has examples"
        )
    keys = list(map(str, data))
    resolve_paths(data, path.resolve().parent)
    try:
        return make_section(kind, data, overrides, changes, path, document)
    except ConfigError:
        refuse_other_kind(kind, keys, path)
        raise


def make_config(
    data: dict[str, object],
    overrides: Sequence[str] = (),
    changes: Mapping[str, object] | None = None,
) -> Config:
    """A run's config from plain data, with overrides on top; the arguments are those of `make_section`."""
    return make_section(Config, data, overrides, changes)


def make_section(
    kind: type[S],
    data: dict[str, object],
    overrides: Sequence[str] = (),
    changes: Mapping[str, object] | None = None,
    source: Path | str = "the command line",
    document: Document | None = None,
) -> S:
    """Settings of any kind from plain data, with overrides on top.

    Args:
        kind: a run's config, or what another command takes.
        overrides: `key=value` each, as in `--set`.
        changes: key → value, over the overrides.
        source, document: where the data come from, for messages.

    Raises:
        UserError: an override is not `key=value`.
        ConfigError: as `load_config`.
    """
    origin = Origin.of(source, document)
    for override in overrides:
        key, value = _parse_override(override)
        _set(data, key, value.data)
        origin.override(key, f"--set {hide_in(override)}", value.written)
    for name, setting in (changes or {}).items():
        _set(data, tuple(name.split(".")), setting)
        origin.override(tuple(name.split(".")), "the command line", {})
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        problems = find_problems(kind, error, origin)
        raise ConfigError(problems, *drop_faults(kind, data, error)) from error


def _parse_override(override: str) -> tuple[Keys, Document]:
    """Key and value of `--set KEY=VALUE`."""
    key, sep, value = override.partition("=")
    keys = tuple(key.strip().split("."))
    if not sep or not all(keys):
        problem = "the key is missing" if sep else "`=` is missing"
        raise UserError(f"--set {override}: {problem}", do="write --set key=value, for example reward.beta=0.2")
    return keys, parse_yaml(value, f"--set {override}", numbered=False)


def dump_config(config: Section, folder: Path | None = None) -> str:
    """A config as YAML. Paths inside `folder`, where the file will be, are relative to it, so that it may be moved."""
    data = config.model_dump(mode="json")
    for keys in PATHS + PATHS_OR_NAMES if folder is not None else ():
        at: object = data
        for key in keys[:-1]:
            at = at.get(key) if isinstance(at, dict) else None
        if isinstance(at, dict) and folder is not None:
            value = at.get(keys[-1])
            if isinstance(value, dict):
                at[keys[-1]] = {name: _relative(inner, folder) for name, inner in value.items()}
            elif keys[-1] in at:
                at[keys[-1]] = _relative(value, folder)
    return dump_yaml(data)


def _relative(value: object, folder: Path) -> object:
    """A path inside the folder as one relative to it."""
    if isinstance(value, str) and Path(value).is_absolute():
        for base in (folder, folder.resolve()):
            if Path(value).is_relative_to(base):
                return f"./{Path(value).relative_to(base).as_posix()}"
    return value


def flatten(settings: Section) -> dict[str, object]:
    """Dotted key → plain value."""
    return dict(_flat(settings.model_dump(mode="json")))


def _flat(data: dict[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _set(data: dict[str, object], keys: Keys, value: object) -> None:
    """A value from the command line, its paths relative to the current folder."""
    extra: dict[str, object] = {}
    _put(extra, keys, value)
    resolve_paths(extra, Path.cwd())
    _merge(data, extra)


def _put(data: dict[str, object], keys: Keys, value: object) -> None:
    for key in keys[:-1]:
        inner = data.get(key)
        if not isinstance(inner, dict):
            inner = {}
            data[key] = inner
        data = inner
    data[keys[-1]] = value


def _merge(data: dict[str, object], extra: dict[str, object]) -> None:
    for key, value in extra.items():
        inner = data.get(key)
        if isinstance(value, dict) and isinstance(inner, dict):
            _merge(inner, value)
        else:
            data[key] = value


def resolve_paths(data: dict[str, object], base: Path) -> None:
    """Paths are relative to `base`; those of a recipe also to the current folder: users add no files to recipes."""
    bases = [base, Path.cwd()] if base in (CONFIGS, RECIPES) else [base]
    for keys in PATHS + PATHS_OR_NAMES:
        section: object = data
        for key in keys[:-1]:
            section = section.get(key) if isinstance(section, dict) else None
        if not isinstance(section, dict):
            continue
        value = section.get(keys[-1])
        if isinstance(value, dict):  # one model a language, or by name
            for name in value:
                _resolve(value, name, keys, bases)
        elif value is not None:
            _resolve(section, keys[-1], keys, bases)
    _resolve_judges(data.get("judge"), bases)
    judges = data.get("judges")
    for judge in judges if isinstance(judges, list) else []:
        if isinstance(judge, dict):
            resolve_paths({"judge": judge}, base)


def _resolve_judges(judge: object, bases: Sequence[Path]) -> None:
    """The prompts of several judges, and the models of those that are local."""
    given = judge.get("judges") if isinstance(judge, dict) else None
    for one in given if isinstance(given, list) else []:
        if isinstance(judge, dict) and isinstance(one, dict):
            local = one.get("kind", judge.get("kind")) == "local"
            for name in ("template", "model") if local else ("template",):
                if one.get(name) is not None:
                    _resolve(one, name, ("judge", name), bases)


def _resolve(section: dict[str, object], name: str, keys: Keys, bases: Sequence[Path]) -> None:
    """Write the path that a key of a section names in full; a value that is none stays."""
    value = section[name]
    if not isinstance(value, str) or not value or value.startswith(("package:", PREFIX)) or value in WORDS:
        return
    try:
        paths = [at / Path(value).expanduser() for at in bases]
        path = next((p for p in paths if p.exists()), paths[-1])
        if keys in PATHS or path.exists() or (_is_local(section) and means_path(value, bases)):
            section[name] = str(path.resolve())
    except (OSError, ValueError, RuntimeError):
        return  # too long, no text, or the home of an unknown user: what needs the file says that it is not there


def _is_local(section: Mapping[str, object]) -> bool:
    """Whether a section's names are of this machine: an endpoint's models have names of its own."""
    return section.get("kind") != "openai"
