"""The answers of an endpoint, kept in sqlite: an answer that was paid for is never requested again."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from time import monotonic

from tenacity import retry, retry_if_exception, stop_after_delay, wait_random

from icr.base.errors import UserError

SECONDS_FOR_OTHERS = 60.0
"""How long to wait for another process that is writing."""
MOST_KEYS = 500
"""Of one statement; sqlite has a limit."""


class Cache:
    """Answers by question. Each is on disk when `put` returns: safe under kill -9 and with several processes.

    The first answer to a question stays. If a second process paid for the same question at the same moment, its answer
    is dropped, so that both continue with the same one.
    """

    def __init__(self, path: Path, server: str = "") -> None:
        """Raises UserError if the file is not a cache.

        Args:
            server: whose answers these are, where the file may have those of several.
        """
        self._path, self._server = path, server
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._explained():
            # autocommit, but for `put_all`
            self._db = sqlite3.connect(path, timeout=SECONDS_FOR_OTHERS, isolation_level=None)
            self._use_wal()
            self._db.execute("PRAGMA synchronous=NORMAL")
            # a checkpoint waits for the disk, and with it all requests: seldom, then
            self._db.execute("PRAGMA wal_autocheckpoint=8000")
            self._db.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)")

    @retry(retry=retry_if_exception(lambda error: _code(error) == sqlite3.SQLITE_BUSY), wait=wait_random(0.005, 0.05),
           stop=stop_after_delay(SECONDS_FOR_OTHERS), reraise=True)  # fmt: skip
    def _use_wal(self) -> None:
        """In WAL mode NORMAL survives the death of the process; only a power cut may take the last answers.

        Two processes that turn a new file to WAL at once would wait for each other, so sqlite does not let them wait:
        one gets the error "busy" at once, whatever its timeout.
        """
        self._db.execute("PRAGMA journal_mode=WAL")

    def get(self, key: str) -> str | None:
        return self.get_all([key]).get(key)

    def get_all(self, keys: Sequence[str]) -> dict[str, str]:
        """Those answers that are there, by key. Each look locks the file, which takes longer than a key does."""
        found: dict[str, str] = {}
        for start in range(0, len(keys), MOST_KEYS):
            some = {self._name(key): key for key in keys[start : start + MOST_KEYS]}
            marks = ",".join("?" * len(some))
            rows = self._db.execute(f"SELECT key, answer FROM answers WHERE key IN ({marks})", list(some))
            found.update((some[name], answer) for name, answer in rows)
        return found

    def _name(self, key: str) -> str:
        return hashlib.sha256(f"{self._server}\n{key}".encode()).hexdigest() if self._server else key

    def put(self, key: str, answer: str) -> None:
        self.put_all([(key, answer)])

    def put_all(self, answers: Sequence[tuple[str, str]]) -> list[str | None]:
        """Keep (key, answer) each in one transaction.

        Returns:
            For each, in order: None, or the answer that stays because it was there already.

        Raises:
            UserError: the disk is full.
        """
        with self._explained():
            try:
                self._db.execute("BEGIN IMMEDIATE")
                rows = [(self._name(key), answer) for key, answer in answers]
                new = self._db.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?)", rows).rowcount
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
        if new == len(answers):
            return [None] * len(answers)
        kept = self.get_all([key for key, _ in answers])
        return [kept[key] if kept[key] != answer else None for key, answer in answers]

    def drop(self, key: str) -> None:
        """Forget an answer that cannot be read."""
        self._db.execute("DELETE FROM answers WHERE key = ?", (self._name(key),))

    def all(self) -> Iterator[str]:
        for row in self._db.execute("SELECT answer FROM answers"):
            yield str(row[0])

    def __len__(self) -> int:
        return int(self._db.execute("SELECT COUNT(*) FROM answers").fetchone()[0])

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            if _code(error) == sqlite3.SQLITE_FULL:
                raise UserError("the disk is full", where=str(self._path),
                                do="free some space, then rerun the same command to continue") from None  # fmt: skip
            if _code(error) == sqlite3.SQLITE_BUSY:
                raise UserError(
                    f"another process has locked the cache of answers for {SECONDS_FOR_OTHERS:.0f} seconds",
                    where=str(self._path),
                    do="end it, then rerun the same command to continue",
                ) from None
            if _code(error) in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                raise UserError(f"the cache of answers cannot be read: {error}", where=str(self._path),
                                do="move the file away; its answers will be requested again") from None  # fmt: skip
            raise


def _code(error: BaseException) -> int | None:
    """sqlite's primary result code: BUSY also for its kinds, such as BUSY_SNAPSHOT."""
    return error.sqlite_errorcode & 0xFF if isinstance(error, sqlite3.DatabaseError) else None


class Writer:
    """Puts answers in a cache from an event loop: those that come in together are one transaction.

    A separate thread would not wait for the disk, but would cost more than the transactions do.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._waiting: list[tuple[str, str, Callable[[str | None], None]]] = []
        self._error: Exception | None = None

    def put(self, key: str, answer: str, kept: Callable[[str | None], None]) -> None:
        """`kept` is called when the answer is on disk, with the one that stays where another process was sooner.

        Raises:
            UserError: earlier answers could not be kept, as the disk is full.
        """
        if self._error:
            raise self._error
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._write)
        self._waiting.append((key, answer, kept))

    def flush(self) -> None:
        """Return when everything is on disk. Raises UserError when the disk is full, and whatever a `kept` raised."""
        self._write()
        if self._error:
            raise self._error

    def _write(self) -> None:
        batch, self._waiting = self._waiting, []
        if not batch:
            return
        try:
            there = self._cache.put_all([(key, answer) for key, answer, _ in batch])
            for (_, _, kept), answer in zip(batch, there, strict=True):
                kept(answer)
        except Exception as error:  # in a callback of the loop nobody would see it
            self._error = error


class Lookup:
    """What is in a cache, looked up for some questions ahead, shortly before each of them is asked."""

    FRESH = 0.05
    """Seconds for which an answer that was not there counts as not there: less than most requests take."""

    def __init__(self, cache: Cache, ahead: int) -> None:
        """`ahead`: how many questions are looked up at once."""
        self._cache, self._ahead = cache, ahead
        self._known, self._until = dict[str, str | None](), 0.0

    def find(self, key: str, following: Iterable[str]) -> str | None:
        """The answer that is there; `following` are the keys that will be asked for next."""
        if key not in self._known or (self._known[key] is None and monotonic() > self._until):
            keys = [key, *islice(following, self._ahead - 1)]
            found = self._cache.get_all(keys)
            self._known, self._until = {each: found.get(each) for each in keys}, monotonic() + self.FRESH
        return self._known.pop(key)


_KEYS = json.JSONEncoder(sort_keys=True)


def question_key(model: str, params: dict[str, object], messages: list[dict[str, str]]) -> str:
    """The same question to the same model under the same parameters has the same key."""
    return hashlib.sha256(_KEYS.encode([model, params, messages]).encode()).hexdigest()
