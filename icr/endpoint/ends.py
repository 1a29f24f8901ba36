"""Hosted models whose end is known. A judge that is switched off can judge nothing again, nor later rounds likewise."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from icr.base.errors import UserError
from icr.base.yaml_text import read_yaml
from icr.config.schema import Judge
from icr.endpoint.address import show_address

# OpenAI's list: https://platform.openai.com/docs/deprecations, as of 2026-11-25
ENDS: dict[str, dict[str, str]] = {
    "openai.com": {
        "gpt-3.5-turbo": "2026-10-23",
        "gpt-4": "2026-10-23",
        "gpt-4-turbo": "2026-10-23",
        "gpt-5": "2026-12-11",
        "o3": "2026-12-11",
        "gpt-4o": "2027-01-14",
        "gpt-4o-mini": "2027-01-14",
        "gpt-4.1": "2027-01-14",
        "gpt-4.1-mini": "2027-01-14",
    }
}
"""Domain of a provider → model → the first day without it. A dated snapshot of a model ends with it."""
SNAPSHOT = r"-\d{4}(?:-\d{2}-\d{2})?"


def find_end(model: str, url: str, table: str | None) -> date | None:
    """The first day without a model: by the user's table, else by ours; None where no end is known.

    Args:
        url: the endpoint's address. Another provider may serve a model of the same name for longer.
        table: a YAML file of MODEL: YYYY-MM-DD, or null for a model that stays.

    Raises:
        UserError: the table cannot be read.
    """
    own = read_ends(Path(table)) if table else {}
    if model in own:
        return own[model]
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:  # not an address, which others say
        host = ""
    of_provider = next((ends for domain, ends in ENDS.items() if f".{host}".endswith(f".{domain}")), {})
    day = of_provider.get(_without_date(model))
    return None if day is None else date.fromisoformat(day)


def describe_ends(judge: Judge) -> list[str]:
    """A line for the user about each hosted judge whose end is known. Raises UserError as `find_end`."""
    asked = [one for one in judge.each.values() if one.kind == "openai" and one.model]
    return [line for one in asked for line in describe_end(one.model or "", show_address(one), one.ends, date.today())]


def describe_end(model: str, url: str, table: str | None, today: date) -> list[str]:
    """A line for the user about a model whose end is known. Raises UserError as `find_end`."""
    day = find_end(model, url, table)
    if day is None:
        return []
    gone = "is no longer available" if day <= today else "will no longer be available"
    when = "since" if day <= today else "from"
    return [
        f"the judge {model} {gone} {when} {day}, by its provider's announcement: what it has judged cannot be judged "
        "again. Open models stay (docs/evaluation.md); judge.ends overrides this date"
    ]


def read_ends(path: Path) -> dict[str, date | None]:
    """Raises UserError if the file is missing or not YAML of MODEL: YYYY-MM-DD or null."""
    do = "write lines like `my-model: 2027-06-30`, or `my-model: null` for one that stays"
    try:
        return TypeAdapter(dict[str, date | None]).validate_python(read_yaml(path, "the file").data)
    except UserError as error:
        raise UserError(f"the file of end dates cannot be read: {error.what}", where=error.where, do=do) from error
    except ValidationError as error:
        keys = ".".join(map(str, error.errors()[0]["loc"]))
        what = f"the file of end dates cannot be read: {keys}: {error.errors()[0]['msg']}"
        raise UserError(what, where=str(path), do=do) from None


def _without_date(model: str) -> str:
    """gpt-4o-2024-08-06 → gpt-4o; gpt-4-0613 → gpt-4."""
    return re.sub(f"{SNAPSHOT}$", "", model)
