"""The types of config values, and what every section of the config has in common."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _make_whole(value: object) -> object:
    """16.0 is 16, in YAML and here."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


# strict: a text or a truth value is no number, whatever could be made of it
Whole = Annotated[int, BeforeValidator(_make_whole), Field(strict=True)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Text = Annotated[str, Field(pattern=r"^[^\x00]*[^\x00\s][^\x00]*$")]
"""Not blank, and fit for a file name."""
CLASS_PATTERN = r"^.+:\w+$"
OwnClass = Annotated[str, Field(pattern=CLASS_PATTERN)]
Positive = Annotated[Number, Field(gt=0)]
NonNegative = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
Count = Annotated[Whole, Field(ge=1, le=10_000_000)]
Processes = Annotated[Whole, Field(ge=1, le=10_000)]
Tokens = Annotated[Whole, Field(ge=1, le=10_000_000)]
TemplateArguments = dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], bool | int | float | str]
Seed = Annotated[Whole, Field(ge=0, lt=2**32)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, strict=False)
    page: ClassVar[str] = "docs/config.md"
    """Where the keys of a config of this kind are described."""
    command: ClassVar[str] = ""
    """The command that reads a file of this kind, where there is one."""
