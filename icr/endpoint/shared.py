"""The user's answers of endpoints, which evaluations share: one more language, folder or round pays for what is new."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from icr.base.content import cache_root
from icr.base.errors import UserError
from icr.config.schema import Judge
from icr.endpoint.cache import Cache

NONE = "none"
FILE = "answers.sqlite"


def find_user_cache(config: Judge) -> Path | None:
    """`judge.cache`, else ICR_JUDGE_CACHE, else the user's folder of caches; None where it is `none`."""
    folder = config.cache or os.environ.get("ICR_JUDGE_CACHE") or str(cache_root() / "judge")
    return None if folder == NONE else Path(folder).expanduser() / FILE


class SharedCache(Cache):
    """An evaluation's answers, with those that the user has paid for elsewhere.

    The evaluation's own file has all of its answers, so its folder is whole and may be moved. In the user's, a question
    is known by the address as well: what another server says to it is another answer.
    """

    def __init__(self, own: Path, user: Path, address: str, note: Callable[[str], None], server: str = "") -> None:
        """`address`: without its secrets; `server`: as for `Cache`. Raises UserError if a file is not a cache."""
        super().__init__(own, server)
        self._address = address
        self._user: Cache | None = None
        try:
            self._user = Cache(user)
        except (OSError, sqlite3.OperationalError, UserError) as error:
            reason = error.what if isinstance(error, UserError) else str(error)
            note(f"the cache of all answers at {user} cannot be used ({reason}): this evaluation keeps its own alone")

    def get_all(self, keys: Sequence[str]) -> dict[str, str]:
        """The answers, which are the evaluation's from now on."""
        own = super().get_all(keys)
        users = {self._in_users(key): key for key in keys if key not in own}
        if self._user is None or not users:
            return own
        found = {users[there]: answer for there, answer in self._user.get_all(list(users)).items()}
        if found:
            super().put_all(list(found.items()))
        return own | found

    def put_all(self, answers: Sequence[tuple[str, str]]) -> list[str | None]:
        if self._user is None:
            return super().put_all(answers)
        there = self._user.put_all([(self._in_users(key), answer) for key, answer in answers])
        stays = [(key, answer if other is None else other)
                 for (key, answer), other in zip(answers, there, strict=True)]  # fmt: skip
        own = super().put_all(stays)
        return [ours if ours is not None else theirs for ours, theirs in zip(own, there, strict=True)]

    def drop(self, key: str) -> None:
        super().drop(key)
        if self._user is not None:
            self._user.drop(self._in_users(key))

    def _in_users(self, key: str) -> str:
        return hashlib.sha256(f"{self._address}\n{key}".encode()).hexdigest()
