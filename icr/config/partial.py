"""Settings without their faults, so that the rest of a faulty file is checked as well."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from typing import TypeVar

from pydantic import ValidationError

from icr.base.problems import STAND_IN
from icr.config.explain import meant_list, nearest, section_at, section_of
from icr.config.values import Section

S = TypeVar("S", bound=Section)
ROUNDS = 4
"""Taking a fault out may show another one: a value of a wrong type is then a missing one."""
Data = dict[str, object]


def drop_faults(kind: type[S], data: Data, error: ValidationError) -> tuple[S | None, list[str]]:
    """The settings, and the keys that something stands in for; None where they cannot be made.

    What a fault was meant as is taken where that is plain, else its key is at its default.
    """
    absent: list[str] = []
    for _ in range(ROUNDS):
        faults = [(tuple(str(key) for key in item["loc"]), item["type"]) for item in error.errors()]
        missing = [keys for keys, fault in faults if fault == "missing"]
        for keys, fault in faults:
            if fault != "missing":
                _take_out(kind, data, keys, fault, missing)
        for keys in missing:
            if _stand_in(kind, data, keys):
                absent.append(".".join(keys))
        try:
            return kind.model_validate(data), absent
        except ValidationError as again:
            error = again
    return None, absent


def _take_out(kind: type[S], data: Data, keys: Sequence[str], fault: str, missing: Sequence[Sequence[str]]) -> None:
    """A faulty value is replaced by what it was meant as, or removed."""
    section = data
    for number, key in enumerate(keys):
        if key not in section:
            return
        value = section[key]
        if isinstance(value, dict) and number + 1 < len(keys):
            section = value
            continue
        del section[key]
        known = nearest(kind, keys) if fault == "extra_forbidden" else ""
        if known and (*keys[:-1], known) in missing:
            section[known] = value
        elif fault == "list_type" and (meant := meant_list(value)):
            section[key] = meant
        return


def _stand_in(kind: type[S], data: Data, keys: Sequence[str]) -> bool:
    """Put something in the place of a key that is missing, if it still is. Whether that was done."""
    section: object = data
    for key in keys[:-1]:
        section = section.get(key) if isinstance(section, dict) else None
    if not isinstance(section, dict) or keys[-1] in section:
        return False
    annotation = section_at(kind, tuple(keys[:-1])).model_fields[keys[-1]].annotation
    if section_of(annotation):
        section[keys[-1]] = {}
    else:
        section[keys[-1]] = [STAND_IN] if typing.get_origin(annotation) is list else STAND_IN
    return True
