"""What the tests of the judge share: answers on disk, and a reporter that remembers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from icr.base.files import write_rows
from icr.base.progress import Silent
from icr.rows import RESPONSES


def write_answers(folder: Path, lang: str, texts: dict[str, str], *, truncated: Sequence[str] = ()) -> Path:
    rows = [
        {"prompt_id": id, "lang": lang, "sample": 0, "prompt": f"Frage {id}", "response": text, "token_ids": [1],
         "finish_reason": "length" if id in truncated else "stop"}
        for id, text in texts.items()
    ]  # fmt: skip
    write_rows(folder / f"{lang}.parquet", rows, RESPONSES)
    return folder


class Steps(Silent):
    def __init__(self) -> None:
        self.steps, self.notes, self.statuses = list[tuple[int, int]](), list[str](), list[str]()

    def progress(self, done: int, total: int, tokens: int = 0) -> None:
        self.steps.append((done, total))

    def note(self, text: str) -> None:
        self.notes.append(text)

    def status(self, text: str) -> None:
        self.statuses.append(text)
