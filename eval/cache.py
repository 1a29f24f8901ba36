"""What an endpoint has answered, kept in sqlite: an answer that was paid for is never asked for again."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any


class Cache:
    """Answers by question. Each is on disk when `put` returns: safe under kill -9 and with several processes."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # autocommit: one answer is one transaction. The timeout is how long to wait for another process.
        self._db = sqlite3.connect(path, timeout=60, isolation_level=None)
        # in WAL mode NORMAL survives the death of the process; only a power cut may take the last answers
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)")

    def get(self, key: str) -> str | None:
        row = self._db.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def put(self, key: str, answer: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, answer))

    def __len__(self) -> int:
        return int(self._db.execute("SELECT COUNT(*) FROM answers").fetchone()[0])


def question_key(model: str, params: dict[str, Any], messages: list[dict[str, str]]) -> str:
    """The same question to the same model under the same parameters has the same key."""
    return hashlib.sha256(json.dumps([model, params, messages], sort_keys=True).encode()).hexdigest()
