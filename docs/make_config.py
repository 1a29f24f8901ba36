"""`python -m docs.make_config`: docs/config.md from the field docstrings of icr/config/schema.py."""

from __future__ import annotations

import json
import types
import typing
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from icr.config.reward_model import RewardModelConfig, RewardTrain
from icr.config.rl import UNUSED, RLConfig, RLTrain
from icr.config.schema import Config
from icr.config.sft import SftConfig, SftTrain

HEAD = """# Config

One YAML file. Unknown keys are refused, and `icr validate CONFIG` lists every problem at once. Paths in the file are
relative to the file. Paths in `--set`, and in `path/to/file.py:Class`, are relative to the current folder.
`--set key=value` overrides a key from the command line, for example `--set sampling.n=4`.

Values are read as YAML 1.2 has them: `no` is Norwegian in a list of languages, `1e-6` is a number, `on` and `yes` are
not. A number is written without quotes and underscores. A key is given once.

This page is generated from `icr/config/schema.py`.
"""


REWARD_HEAD = """# Config of icr rm train

One YAML file, read as [a run's](config.md). Keys of `train` that are not explained otherwise are the same there.

This page is generated from `icr/config/reward_model.py`.
"""
SFT_HEAD = """# Config of icr sft

One YAML file, read as [a run's](config.md). Keys of `train` that are not explained otherwise are the same there.

This page is generated from `icr/config/sft.py`.
"""
RL_HEAD = """# Config of icr rl

One YAML file, read as [a run's](config.md). Keys of `train` that are not explained otherwise are the same there.

This page is generated from `icr/config/rl.py`.
"""
HIDDEN = {**dict.fromkeys((RewardTrain, SftTrain), ("beta", "nll_weight", "validation")), RLTrain: UNUSED}
"""Keys that a section inherits and refuses."""


def render(kind: type[BaseModel] = Config, head: str = HEAD) -> str:
    """The page of a config."""
    lines = [head, "## Top level", "", *_table(kind)]
    for name, field in kind.model_fields.items():
        section = _section(field.annotation)
        if section:
            lines += ["", f"## `{name}`", ""]
            if section.__doc__:
                lines += [section.__doc__.strip(), ""]
            lines += _table(section, f"{name}.")
            for inner, inner_field in section.model_fields.items():
                if part := _section(inner_field.annotation):
                    lines += ["", f"### `{name}.{inner}`", "", *_table(part, f"{name}.{inner}.")]
    return "\n".join(lines) + "\n"


def _table(section: type[BaseModel], prefix: str = "") -> list[str]:
    lines = ["| key | values | default | meaning |", "|---|---|---|---|"]
    for name, field in section.model_fields.items():
        if (not prefix and _section(field.annotation)) or name in HIDDEN.get(section, ()):
            continue
        default = "required" if field.default is PydanticUndefined else f"`{_plain(field.default)}`"
        meaning = (field.description or "").replace("\n", " ").replace("|", "\\|")
        lines.append(f"| `{prefix}{name}` | {_values(field.annotation)} | {default} | {meaning} |")
    return lines


def _section(annotation: Any) -> type[BaseModel] | None:
    options = [annotation, *typing.get_args(annotation)]
    return next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)


def _values(annotation: Any) -> str:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " \\| ".join(f"`{a}`" for a in args)
    if origin in (typing.Union, types.UnionType):
        return " \\| ".join(_values(a) for a in args if a is not type(None))
    if origin is typing.Annotated:
        return _values(args[0])
    if origin is dict:
        return f"{_values(args[0])} → {_values(args[1])}"
    if origin is list:
        return f"list of {_values(args[0])}"
    names = {str: "text", int: "whole number", float: "number", bool: "`true` \\| `false`"}
    return names.get(annotation, "section")


def _plain(value: Any) -> str:
    if isinstance(value, BaseModel):
        return "see below"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | dict):
        return json.dumps(value)
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else str(value)


PAGES = {
    "config.md": render,
    "reward-model-config.md": partial(render, RewardModelConfig, REWARD_HEAD),
    "rl-config.md": partial(render, RLConfig, RL_HEAD),
    "sft-config.md": partial(render, SftConfig, SFT_HEAD),
}

if __name__ == "__main__":
    for name, page in PAGES.items():
        Path(__file__).with_name(name).write_text(page(), encoding="utf-8")
