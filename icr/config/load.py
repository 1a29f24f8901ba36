"""From a YAML file and the command line to a checked Config; every problem found is reported together."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from icr.base.errors import ConfigError, UserError
from icr.base.hub import PREFIX, means_path
from icr.config.schema import CONFIGS, Config, Section

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

S = TypeVar("S", bound=Section)
Keys = tuple[str, ...]

PATHS: tuple[Keys, ...] = (
    ("run",),
    ("models", "chat_template"),
    ("chat_template",),
    ("alignment", "pairs"),
    ("judge", "difficulty"),
    ("judge", "gamed"),
    ("judge", "prices"),
    ("judge", "mtbench", "questions"),
    ("judge", "nlp", "include_path"),
)
"""Keys that can only be paths."""
PATHS_OR_NAMES: tuple[Keys, ...] = (
    ("models", "policy"),
    ("models", "reference"),
    ("model",),
    ("prompts", "path"),
    ("reward", "model"),
    ("train", "deepspeed"),
    ("judge", "model"),
    ("judge", "prompts"),
    ("judge", "baseline"),
    ("judge", "mtbench", "references"),
)
"""Keys that are a path when such a file or folder exists, else a hub id or a word."""
WORDS = ("round-0", "zero2", "zero3", "none", "judge")


def find_config(name: str) -> Path:
    """A path, or the name of a recipe that comes with icr."""
    path = Path(name)
    if path.is_file():
        return path
    recipe = CONFIGS / f"{name}.yaml"
    if recipe.is_file():
        return recipe
    known = sorted(p.stem for p in CONFIGS.glob("*.yaml"))
    raise UserError(f"config {name} not found", do=f"give a path, or the name of a recipe: {', '.join(known)}")


def load_config(path: Path, overrides: Sequence[str] = (), changes: Mapping[str, object] | None = None) -> Config:
    """Read `path`, apply `key=value` overrides and then `changes` (key → value), and type-check the result.

    Paths in the file are relative to the file, paths in overrides to the working directory.

    Raises:
        ConfigError: unknown keys (with the nearest known one), ill-typed and missing values, all at once.
    """
    try:
        text = path.read_text(encoding="utf-8")
        data = yaml.safe_load(text) or {}
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UserError(
            f"the config is not valid YAML: {getattr(error, 'problem', error)}",
            where=where,
            do="fix the line; check indentation and colons",
        ) from error
    if not isinstance(data, dict):
        raise UserError("the config is not a mapping of keys", where=str(path), do="see configs/ for examples")
    resolve_paths(data, path.resolve().parent)
    return make_config(data, overrides, changes, path, _lines(text))


def make_config(
    data: dict[str, object],
    overrides: Sequence[str] = (),
    changes: Mapping[str, object] | None = None,
    source: Path | str = "the command line",
    lines: dict[Keys, int] | None = None,
) -> Config:
    """A run's config from plain data, with overrides on top; the arguments are those of `make_section`."""
    return make_section(Config, data, overrides, changes, source, lines)


def make_section(
    kind: type[S],
    data: dict[str, object],
    overrides: Sequence[str] = (),
    changes: Mapping[str, object] | None = None,
    source: Path | str = "the command line",
    lines: dict[Keys, int] | None = None,
) -> S:
    """Settings of any kind from plain data, with overrides on top.

    Args:
        kind: a run's config, or what another command takes.
        overrides: `key=value` each, as in `--set`.
        changes: key → value, over the overrides.
        source, lines: where the data come from, for messages.

    Raises:
        ConfigError: as `load_config`.
    """
    for override in overrides:
        key, sep, value = override.partition("=")
        if not sep:
            raise UserError(
                f"--set {override}: `=` is missing", do="write --set key=value, for example reward.beta=0.2"
            )
        try:
            _set(data, key, yaml.safe_load(value))
        except yaml.YAMLError as error:
            raise UserError(
                f"--set {override}: the value is not valid YAML", do="check that every bracket is closed"
            ) from error
    for key, setting in (changes or {}).items():
        _set(data, key, setting)
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_problems(kind, error, source, lines or {}), _without_faults(kind, data, error)) from error


def _without_faults(kind: type[S], data: dict[str, object], error: ValidationError) -> S | None:
    """The settings with faulty keys at their defaults, so that the rest can be checked as well."""
    for item in error.errors():
        section: object = data
        for key in item["loc"]:
            if not isinstance(section, dict) or key not in section:
                break
            if not isinstance(section[key], dict) or key == item["loc"][-1]:
                del section[key]
                break
            section = section[key]
    try:
        return kind.model_validate(data)
    except ValidationError:
        return None


def dump_config(config: Section, folder: Path | None = None) -> str:
    """A config as YAML. Paths inside `folder`, where the file will be, are relative to it, so that it may be moved."""
    data = config.model_dump(mode="json")
    for keys in PATHS + PATHS_OR_NAMES if folder is not None else ():
        at: object = data
        for key in keys[:-1]:
            at = at.get(key) if isinstance(at, dict) else None
        value = at.get(keys[-1]) if isinstance(at, dict) else None
        if isinstance(at, dict) and isinstance(value, str) and Path(value).is_absolute():
            for base in (folder, folder.resolve()) if folder else ():
                if Path(value).is_relative_to(base):
                    at[keys[-1]] = f"./{Path(value).relative_to(base).as_posix()}"
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def flatten(settings: Section) -> dict[str, object]:
    """Dotted key → plain value."""
    return dict(_flat(settings.model_dump(mode="json")))


def _flat(data: dict[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _set(data: dict[str, object], key: str, value: object) -> None:
    """A value from the command line, its paths relative to the current folder."""
    extra: dict[str, object] = {}
    _put(extra, tuple(key.split(".")), value)
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
    bases = [base, Path.cwd()] if base == CONFIGS else [base]
    for keys in PATHS + PATHS_OR_NAMES:
        section: object = data
        for key in keys[:-1]:
            section = section.get(key) if isinstance(section, dict) else None
        if not isinstance(section, dict):
            continue
        value = section.get(keys[-1])
        if not isinstance(value, str) or not value or value.startswith(("package:", PREFIX)) or value in WORDS:
            continue
        paths = [at / Path(value).expanduser() for at in bases]
        path = next((p for p in paths if p.exists()), paths[-1])
        if keys in PATHS or path.exists() or (_is_local(section) and means_path(value, bases)):
            section[keys[-1]] = str(path.resolve())


def _is_local(section: Mapping[str, object]) -> bool:
    """Whether a section's names are of this machine: an endpoint's models have names of its own."""
    return section.get("kind") != "openai"


def _lines(text: str) -> dict[Keys, int]:
    """Key path → line number in the file."""
    lines: dict[Keys, int] = {}

    def walk(node: yaml.Node | None, keys: Keys) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inner = (*keys, str(key.value))
                lines[inner] = key.start_mark.line + 1
                walk(value, inner)

    walk(yaml.compose(text), ())
    return lines


def _problems(kind: type[Section], error: ValidationError, path: Path | str, lines: dict[Keys, int]) -> list[UserError]:
    found: dict[Keys, UserError] = {}
    for item in error.errors():
        keys = tuple(str(k) for k in item["loc"])
        if item["type"] not in ("extra_forbidden", "missing"):
            # a union adds the names of its branches to the place: cut back to the key that the file has
            keys = next((keys[:i] for i in range(len(keys), 0, -1) if keys[:i] in lines), keys)
        line = next((lines[keys[:i]] for i in range(len(keys), 0, -1) if keys[:i] in lines), None)
        what, do = _explain(kind, keys, item)
        found.setdefault(keys, UserError(what, where=f"{path}:{line}" if line else str(path), do=do))
    return list(found.values())


def _explain(kind: type[Section], keys: Keys, item: ErrorDetails) -> tuple[str, str]:
    """What is wrong with a key, and what to do."""
    name = ".".join(keys)
    if item["type"] == "extra_forbidden":
        fields = _fields(kind, keys[:-1])
        near = difflib.get_close_matches(keys[-1], fields, n=1, cutoff=0.6)
        hint = f"did you mean `{'.'.join((*keys[:-1], near[0]))}`?" if near else f"known keys: {', '.join(fields)}"
        return f"unknown key `{name}`", hint
    if item["type"] == "missing":
        return f"`{name}` is missing", "add it; docs/config.md describes it"
    if name == "sampling.n" and item["type"] == "greater_than_equal":
        return f"`sampling.n` is {item['input']}: a best and a worst need two responses", "sample at least 2 per prompt"
    return f"`{name}`: {item['msg']}, got {item['input']!r}", "docs/config.md lists the allowed values"


def _fields(kind: type[Section], keys: Keys) -> list[str]:
    model: type[BaseModel] = kind
    for key in keys:
        annotation = model.model_fields[key].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        model = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
    return list(model.model_fields)
