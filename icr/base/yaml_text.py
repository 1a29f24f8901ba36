"""YAML as people mean it: the core schema of YAML 1.2, in which `no` is a text and 1e-6 a number.

PyYAML parses the text; what a scalar means is decided here. A key that is given twice is an error, as one of the two
values would be lost. Aliases and merge keys (`<<`) work, up to a size that no settings reach.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import yaml

from icr.base.errors import UserError

Keys = tuple[str, ...]

LARGEST_FILE = 64_000
"""Characters, which PyYAML reads in a second at the worst; the longest recipe has 2,000."""
MOST_NODES = 10_000
"""Values, after aliases are put in."""
MOST_LEVELS = 50
"""Sections within sections; settings have four. PyYAML takes seconds for thousands."""
TOO_DEEP = f"more than {MOST_LEVELS} levels of brackets or indentation"
MERGE = "tag:yaml.org,2002:merge"
NAMES = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "null": "nothing"}

Resolvers = Sequence[tuple[str, str, str]]
CORE: Resolvers = (
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"0o[0-7]+|0x[0-9a-fA-F]+|[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    # as the schema has it, but for whole numbers with a leading 0: octal to some readers, decimal to others
    ("float", r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*([eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+))", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
)
"""Type, pattern of the whole scalar, first characters."""


class _Loader(yaml.SafeLoader):
    """PyYAML's parser with the resolvers of the core schema."""

    # PyYAML's own are of YAML 1.1
    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}  # type: ignore[misc]

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._level = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._level += 1
        if self._level > MOST_LEVELS:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, TOO_DEEP, mark)
        node = super().compose_node(parent, index)
        self._level -= 1
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.1 or 1.2 takes for something else; no anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True


for _name, _pattern, _first in CORE:
    for _kind in (_Loader, _Dumper):
        _starts = [*_first, ""] if _name == "null" else list(_first)
        _kind.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), _starts)
_Loader.add_implicit_resolver(MERGE, re.compile("^<<$"), ["<"])


@dataclass
class Document:
    """What a YAML text says, and where and how it is written."""

    data: object
    lines: dict[Keys, int] = field(default_factory=dict)
    """Keys from the root → line, from 1. A place in a list is a key, too, as text: ("languages", "0")."""
    written: dict[Keys, str] = field(default_factory=dict)
    """Keys from the root → the scalar as it is written, without its quotes."""


def parse_yaml(text: str, where: str, *, numbered: bool = True) -> Document:
    """Read one YAML document.

    Args:
        where: its name for messages: a file, or an option of the command line.
        numbered: add the number of the line to it.

    Raises:
        UserError: not YAML, a key twice, a type that settings do not have, an alias in itself, or too much of it.
    """
    if len(text) > LARGEST_FILE:
        raise UserError(
            f"the text has {len(text):,} characters, too many for a settings file",
            where=where,
            do=f"name the right file; at most {LARGEST_FILE:,} characters are read",
        )
    try:
        node = yaml.compose(text, _Loader)
        return _Builder(where, numbered).build(node)
    except yaml.YAMLError as error:
        line = _line_of(error, text) if numbered else ""
        reason = _reason(error)
        what = reason if reason == TOO_DEEP else f"not valid YAML: {reason}"
        raise UserError(what, where=f"{where}{line}", do=_hint(error)) from error


def read_yaml(path: Path, what: str) -> Document:
    """Read a YAML file.

    Args:
        what: the file in words, for messages.

    Raises:
        UserError: as `parse_yaml`; the file is not there, or is not text.
    """
    try:
        if path.stat().st_size > 4 * LARGEST_FILE:
            raise UserError(
                f"{what} has {path.stat().st_size:,} bytes, too many for a settings file",
                where=str(path),
                do="name the right file",
            )
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{what} is not UTF-8 text (byte {error.start})", where=str(path), do="save the file as UTF-8"
        ) from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"{what} cannot be read: {reason}", where=str(path), do="check the path") from error
    return parse_yaml(text, str(path))


def dump_yaml(data: object) -> str:
    """Plain data as YAML that reads back as the same under YAML 1.1 and 1.2, keys in their order."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Builder:
    """Nodes into plain data."""

    def __init__(self, where: str, numbered: bool) -> None:
        self._where, self._numbered = where, numbered
        self._document = Document(None)
        self._open: list[yaml.Node] = []
        self._count = 0

    def build(self, node: yaml.Node | None) -> Document:
        if node is not None:
            self._document.data = self._value(node, ())
        return self._document

    def _value(self, node: yaml.Node, keys: Keys) -> object:
        self._count += 1
        if self._count > MOST_NODES:
            raise self._error(
                node, f"more than {MOST_NODES:,} values after aliases are expanded", "remove aliases (`*name`)"
            )
        if any(node is outer for outer in self._open):
            raise self._error(node, "an alias refers to itself", "remove the alias (`*name`)")
        if isinstance(node, yaml.ScalarNode):
            self._document.written[keys] = node.value
            return self._scalar(node)
        self._open.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                self._check_tag(node, "map")
                return self._mapping(node, keys)
            assert isinstance(node, yaml.SequenceNode)
            self._check_tag(node, "seq")
            return [self._item(item, (*keys, str(number))) for number, item in enumerate(node.value)]
        finally:
            self._open.pop()

    def _item(self, node: yaml.Node, keys: Keys) -> object:
        self._document.lines[keys] = node.start_mark.line + 1
        return self._value(node, keys)

    def _mapping(self, node: yaml.MappingNode, keys: Keys) -> dict[str, object]:
        found: dict[str, object] = {}
        first: dict[str, int] = {}
        for key_node, value in node.value:
            if key_node.tag == MERGE:
                continue
            key = self._key(key_node)
            line = key_node.start_mark.line + 1
            if key in first:
                name = ".".join((*keys, key))
                raise self._error(
                    key_node,
                    f"the key `{name}` is given twice, in line {first[key]} and in line {line}",
                    "remove one of them",
                )
            first[key] = line
            self._document.lines[*keys, key] = line
            found[key] = self._value(value, (*keys, key))
        for key_node, value in node.value:
            if key_node.tag == MERGE:
                self._merge(found, value, keys)
        return found

    def _merge(self, found: dict[str, object], node: yaml.Node, keys: Keys) -> None:
        """Keys of `<<: *name`; those that are given beside it win."""
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for part in parts:
            if not isinstance(part, yaml.MappingNode):
                raise self._error(part, "`<<` needs a mapping", "write `<<: *name` with the anchor of a mapping")
            for key, value in self._plain_mapping(part, keys).items():
                found.setdefault(key, value)

    def _plain_mapping(self, node: yaml.MappingNode, keys: Keys) -> dict[str, object]:
        """A mapping whose places are not kept where the section has its own."""
        lines, written = dict(self._document.lines), dict(self._document.written)
        found = self._value(node, keys)
        self._document.lines |= lines
        self._document.written |= written
        assert isinstance(found, dict)
        return found

    def _key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self._error(node, "a list or mapping is used as a key", "write a word before the colon")
        return str(node.value)

    def _scalar(self, node: yaml.ScalarNode) -> object:
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        make = SCALARS.get(kind)
        if make is None:
            raise self._error(node, f"values of the type {node.tag} are not supported", "write text or a number")
        try:
            return make(node.value)
        except (ValueError, KeyError):
            shown = node.value if len(node.value) <= 60 else node.value[:60] + "…"
            raise self._error(node, f"{shown} is not {NAMES[kind]}", "fix the value") from None

    def _check_tag(self, node: yaml.Node, kind: str) -> None:
        if node.tag != f"tag:yaml.org,2002:{kind}":
            raise self._error(node, f"values of the type {node.tag} are not supported", "remove the tag")

    def _error(self, node: yaml.Node, what: str, do: str) -> UserError:
        line = f":{node.start_mark.line + 1}" if self._numbered else ""
        return UserError(what, where=f"{self._where}{line}", do=do)


def _integer(text: str) -> int:
    for prefix, base in (("0o", 8), ("0x", 16)):
        if text.startswith(prefix):
            return int(text[2:], base)
    return int(text)


SCALARS: dict[str, Callable[[str], object]] = {
    "str": str,
    "null": lambda text: None,
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "int": _integer,
    "float": lambda text: float(re.sub(r"\.(?=inf|nan)", "", text.lower())),
}


def _reason(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.reader.ReaderError):
        character = error.character
        return f"the character #x{character if isinstance(character, int) else ord(character):04x} is not allowed"
    problem = str(getattr(error, "problem", None) or error)
    return "there is a second document" if "another document" in problem else problem


def _line_of(error: yaml.YAMLError, text: str) -> str:
    if isinstance(error, yaml.reader.ReaderError):
        return f":{text.count(chr(10), 0, error.position) + 1}"
    mark = getattr(error, "problem_mark", None)
    return f":{mark.line + 1}" if mark else ""


def _hint(error: yaml.YAMLError) -> str:
    reason = _reason(error)
    if "'\\t'" in reason:
        return "indent with spaces, not with tabs"
    if reason == TOO_DEEP:
        return "remove the innermost lists and mappings"
    if "second document" in reason:
        return "keep one document: remove the second `---`"
    return "fix the line; check indentation, colons and brackets"
