"""What endpoints have refused, kept with the user's answers for a week: the next command does not pay to learn it."""

from __future__ import annotations

import time
from datetime import date
from pathlib import Path

from pydantic import BaseModel, ValidationError

from icr.base.content import hash_value
from icr.base.files import read_json, write_json
from icr.endpoint.address import Address
from icr.endpoint.refusals import Dialect

FILE = "refusals.json"
WEEK = 7 * 24 * 3600.0
"""Seconds. A provider may take next month what it refuses today."""


def is_remembered(address: Address) -> bool:
    """A server on this machine is started again with other settings, and its refusals cost nothing."""
    return not address.is_here


class Refused(BaseModel):
    """How one model at one address is asked."""

    address: str
    """Without its secrets."""
    model: str
    without: list[str]
    renamed: list[tuple[str, str]]
    since: float
    """When the first of these was refused, in seconds since 1970."""


class Memory:
    """The refusals of one model at one address. A file that cannot be read or written is as good as none."""

    def __init__(self, folder: Path, address: str, model: str) -> None:
        """
        Args:
            folder: the user's folder of answers.
            address: without its secrets.
        """
        self._path, self._address, self._model = folder / FILE, address, model
        self._since: float | None = None

    def recall(self) -> Dialect:
        """How this endpoint is asked, as far as the last week knows."""
        kept = self._read().get(self._key)
        if kept is None:
            return Dialect()
        self._since = kept.since
        return Dialect(frozenset(kept.without), tuple(kept.renamed))

    def keep(self, dialect: Dialect) -> None:
        """Two processes that write at once lose one refusal at most, which is then met again."""
        self._since = self._since or time.time()
        own = Refused(
            address=self._address,
            model=self._model,
            without=sorted(dialect.without),
            renamed=list(dialect.renamed),
            since=self._since,
        )
        rows = {**self._read(), self._key: own}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._path, {key: row.model_dump(mode="json") for key, row in rows.items()})
        except OSError:
            return  # what cannot be remembered is refused again, which costs a request

    def describe(self, dialect: Dialect) -> list[str]:
        """A line for the user about what is known from an earlier command."""
        if self._since is None or dialect == Dialect():
            return []
        said = [f"without {', '.join(sorted(dialect.without))}"] if dialect.without else []
        said += [f"with {theirs} in place of {ours}" for ours, theirs in dialect.renamed]
        return [f"requests are sent {' and '.join(said)}, which the endpoint has refused on "
                f"{date.fromtimestamp(self._since)} (tried again a week later; known from {self._path})"]  # fmt: skip

    @property
    def _key(self) -> str:
        return hash_value([self._address, self._model])

    def _read(self) -> dict[str, Refused]:
        """Those of the last week; what is not a refusal is left out."""
        try:
            found = read_json(self._path)
        except (OSError, ValueError):
            return {}
        kept: dict[str, Refused] = {}
        for key, row in found.items() if isinstance(found, dict) else ():
            try:
                kept[key] = Refused.model_validate(row)
            except ValidationError:
                continue
        return {key: row for key, row in kept.items() if 0 <= time.time() - row.since < WEEK}
