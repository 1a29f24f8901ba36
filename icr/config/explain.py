"""What is wrong with settings, in the words of the file that they come from."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ValidationError

from icr.base.errors import UserError
from icr.base.yaml_text import Document, Keys
from icr.config.values import CLASS_PATTERN, Section

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

NUMBERS = ("int_type", "float_type", "int_from_float", "finite_number")


@dataclass
class Origin:
    """Where each setting comes from."""

    source: str
    places: dict[Keys, str] = field(default_factory=dict)
    """Key → file and line, or the option of the command line."""
    written: dict[Keys, str] = field(default_factory=dict)
    """Key → the value as it is written."""
    overrides: list[tuple[Keys, str]] = field(default_factory=list)
    """Key → the option that sets it, in their order."""

    @classmethod
    def of(cls, source: Path | str, document: Document | None) -> Origin:
        if document is None:
            return cls(str(source))
        places = {keys: f"{source}:{line}" for keys, line in document.lines.items()}
        return cls(str(source), places, dict(document.written))

    def override(self, keys: Keys, place: str, written: Mapping[Keys, str]) -> None:
        """Take a key and all below it from elsewhere."""
        for inner in [known for known in self.written if known[: len(keys)] == keys]:
            del self.written[inner]
        self.overrides.append((keys, place))
        self.written |= {(*keys, *inner): text for inner, text in written.items()}

    def place(self, keys: Keys, *, within: bool = True) -> str:
        """Where the key is, or the section that it is missing in.

        Args:
            within: an override below the key counts, too: it has put a section in the place of the key's value.
        """
        overrides = [(known, place) for known, place in self.overrides if keys[: len(known)] == known
                     or (within and known[: len(keys)] == keys)]  # fmt: skip
        if overrides:
            return overrides[-1][1]
        return next((self.places[keys[:i]] for i in range(len(keys), 0, -1) if keys[:i] in self.places), self.source)


def find_problems(kind: type[Section], error: ValidationError, origin: Origin) -> list[UserError]:
    """One problem for each faulty key."""
    found: dict[Keys, UserError] = {}
    items = [(tuple(str(key) for key in item["loc"]), item) for item in error.errors()]
    unknown = [keys for keys, item in items if item["type"] == "extra_forbidden"]
    misspelled = {(*keys[:-1], nearest(kind, keys)) for keys in unknown}
    for keys, item in items:
        if item["type"] == "missing" and keys in misspelled:
            continue  # it is there, under the unknown name
        if item["type"] not in ("extra_forbidden", "missing"):
            keys = _cut(kind, keys)
        what, do = _explain(kind, keys, item, origin)
        place = origin.place(keys, within=item["type"] not in ("value_error", "missing"))
        found.setdefault(keys, UserError(what, where=place, do=do))
    return list(found.values())


def describe(annotation: object, limits: tuple[object, ...] = ()) -> str:
    """The values that a setting takes, in words: "`fit` or `none` or a number"."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " or ".join(map(str, args))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(part, limits) for part in args if part is not type(None))
    if origin is typing.Annotated and any(getattr(m, "pattern", None) == CLASS_PATTERN for m in _parts(args[1:])):
        return "module:Class"
    if origin is typing.Annotated:
        return describe(args[0], (*limits, *_limits(args[1:])))
    if origin is dict:
        return f"a mapping whose values are {describe(args[1])}"
    if origin is list:
        return f"a list in brackets of {describe(args[0])}"
    names: dict[object, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    tightest = {type(limit): limit for limit in limits}
    bounds = " and ".join(map(_bound, tightest.values())) if annotation in (int, float) else ""
    return names.get(annotation, "a section of keys") + (f" {bounds}" if bounds else "")


def _limits(metadata: tuple[object, ...]) -> list[object]:
    return [part for part in _parts(metadata) if isinstance(part, Ge | Gt | Le | Lt)]


def _parts(metadata: tuple[object, ...]) -> list[object]:
    return [part for item in metadata for part in getattr(item, "metadata", [item])]


def _bound(limit: object) -> str:
    name, word = {Ge: ("ge", "≥"), Gt: ("gt", ">"), Le: ("le", "≤"), Lt: ("lt", "<")}[type(limit)]  # type: ignore[index]
    return f"{word} {getattr(limit, name):,}"


def _cut(kind: type[Section], keys: Keys) -> Keys:
    """Without the names of a union's branches, which pydantic adds to the place."""
    model: type[BaseModel] = kind
    for number, key in enumerate(keys):
        if number and key.isdigit():  # in a list of sections
            continue
        if key not in model.model_fields:
            return keys[:number]
        annotation = model.model_fields[key].annotation
        inner = section_of(annotation)
        if inner is None:
            rest = keys[number + 1 :]
            deeper = bool(rest) and (rest[0].isdigit() or typing.get_origin(annotation) is dict)
            return keys[: number + 2] if deeper else keys[: number + 1]
        model = inner
    return keys


def section_of(annotation: object) -> type[BaseModel] | None:
    """The section that a key is, alone or beside None."""
    options = [annotation, *typing.get_args(annotation)]
    return next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)


def _explain(kind: type[Section], keys: Keys, item: ErrorDetails, origin: Origin) -> tuple[str, str]:
    """What is wrong with a key, and what to do."""
    name = ".".join(keys)
    if item["type"] == "extra_forbidden":
        fields, near = section_at(kind, keys[:-1]).model_fields, nearest(kind, keys)
        hint = f"did you mean `{'.'.join((*keys[:-1], near))}`?" if near else f"known keys: {', '.join(fields)}"
        return f"unknown key `{name}`", hint
    if item["type"] == "missing":
        return f"`{name}` is missing", f"add it; {kind.page} describes it"
    if item["type"] == "value_error":
        text = item["msg"].removeprefix("Value error, ")  # of several keys at the top it has no name
        return f"`{name}`: {text}" if name else text, f"{kind.page} describes the keys"
    got = origin.written.get(keys, _show(item["input"]))
    if name == "sampling.n" and item["type"] == "greater_than_equal":
        return f"`sampling.n` is {got}: a best and a worst need two responses", "sample at least 2 per prompt"
    if item["type"] == "model_type":
        return f"`{name}` is a section of keys, got {got}", "indent its keys below it, or remove it"
    takes = _takes(kind, keys)
    if item["type"] == "string_type" and isinstance(item["input"], int | float):
        return f"`{name}` takes text, got {got}", f"write it in quotes: '{got}'"
    if item["type"] == "list_type" and (words := meant_list(item["input"])):
        return f"`{name}` takes a list, got {got!r}", f"write [{', '.join(words)}]"
    if item["type"] in NUMBERS and (number := _meant(item["input"])):
        return f"`{name}` takes {takes}, got {got!r}", f"write {number}"
    alike = difflib.get_close_matches(got, _words(kind, keys), n=1, cutoff=0.6)
    do = f"did you mean {alike[0]}?" if alike else f"{kind.page} describes the key"
    return f"`{name}` takes {takes}, got {got!r}", do


def meant_list(value: object) -> list[str]:
    """The list that a text was probably meant as: es,fr → [es, fr]; [] where there is none."""
    return [word for word in re.split(r"[\s,]+", value) if word] if isinstance(value, str) else []


def _words(kind: type[BaseModel], keys: Keys) -> list[str]:
    """The words that a key takes."""
    annotation: object = kind
    for key in keys:
        inner = section_of(annotation)
        if inner is not None and key in inner.model_fields:  # else an item of a list or mapping
            annotation = inner.model_fields[key].annotation
    return [word for word in _literals(annotation) if isinstance(word, str)]


def _literals(annotation: object) -> list[object]:
    args = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return list(args)
    return [word for part in args for word in _literals(part)]


def _takes(kind: type[BaseModel], keys: Keys) -> str:
    """The values that a key takes, or an item of its list or mapping."""
    for number, key in enumerate(keys):
        if number and key.isdigit():  # in a list of sections
            continue
        field = kind.model_fields[key]
        inner = section_of(field.annotation)
        if inner is None:
            items = number + 1 < len(keys)
            item = _item(field.annotation) if items else None
            return describe(field.annotation, tuple(_limits(tuple(field.metadata)))) if item is None else describe(item)
        kind = inner
    return "a section of keys"


def _item(annotation: object) -> object:
    """The type of the items of a list or mapping; None where there are none."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (list, dict):
        return args[-1]
    return next((found for part in args if (found := _item(part)) is not None), None)


def _show(value: object) -> str:
    text = "nothing" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else text[:60] + "…"


def _meant(value: object) -> str:
    """The number that a value was probably meant as: 1_000 → 1000, 010 → 10, 4.0 → 4; "" where there is none."""
    if isinstance(value, float) and value.is_integer():
        return f"{value:.0f}"
    try:
        return f"{float(value.replace('_', '')):.15g}" if isinstance(value, str) and value[:1].isdigit() else ""
    except ValueError:
        return ""


def nearest(kind: type[BaseModel], keys: Sequence[str]) -> str:
    """The key that an unknown one may be meant as; "" where there is none."""
    near = difflib.get_close_matches(keys[-1], section_at(kind, keys[:-1]).model_fields, n=1, cutoff=0.6)
    return near[0] if near else ""


def section_at(kind: type[BaseModel], keys: Sequence[str]) -> type[BaseModel]:
    for key in keys:
        if key not in kind.model_fields:  # the place in a list of sections
            continue
        inner = section_of(kind.model_fields[key].annotation)
        assert inner is not None, keys
        kind = inner
    return kind
