"""The judge engine: questions become verdicts, in pieces that survive a kill.

A judge is anything with the shape of `eval.judges.base.Judge`: `local` reads a local model's label probabilities,
`endpoint` asks an OpenAI-compatible endpoint, `own` a custom class. `eval.xalpaca.pairwise`, `eval.mtbench.grade` and
`eval.accuracy` ask.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from eval.judges.base import Judge, Running
from eval.judges.question import Question, Verdict, template
from icr.base.files import read_rows, write_rows
from icr.base.progress import Reporter

FINGERPRINT = b"icr.fingerprint"

PIECE = pa.schema(
    [
        ("shares", pa.list_(pa.float64())),  # of the question's labels; null when unscored
        ("reason", pa.string()),
        ("raw", pa.string()),
        ("shortened", pa.bool_()),
    ]
)


MakeRow = Callable[[int, Verdict], dict[str, Any]]
"""(a question's number, its verdict) → a row of the benchmark's table."""


@dataclass(frozen=True)
class Shown:
    """The result that is shown while a benchmark runs: the mean of a column of its rows."""

    name: str
    column: str
    """None in a row that is unscored."""
    scale: float = 1.0


class Asking:
    """One benchmark's questions to one judge, with the progress over all its languages."""

    def __init__(self, judge: Judge, folder: Path, reporter: Reporter, total: int, shown: Shown) -> None:
        """`folder` takes LANG.parquet, and `folder`/pieces what is not whole yet; `total` counts all questions."""
        self._judge, self._folder, self._reporter, self._shown = judge, folder, reporter, shown
        self._values: dict[tuple[str, int], float] = {}
        self._sum = 0.0
        self._done, self._total = 0, total
        reporter.progress(0, total)

    def language(
        self,
        lang: str,
        questions: Sequence[Question],
        schema: pa.Schema,
        row: MakeRow,
    ) -> Path:
        """Judge one language's questions into LANG.parquet, a row each.

        What an earlier, killed run has judged is kept: finished pieces lie in `folder`/pieces. Verdicts on other
        questions or by another judge are made anew.

        Args:
            row: from a question's number and its verdict to a row of `schema`.

        Raises:
            UserError: an endpoint that cannot be used; nothing judged before is lost.
        """
        whole = self._folder / f"{lang}.parquet"
        fingerprint = _fingerprint(self._judge, questions)
        if _is_of(whole, fingerprint):
            self._add(len(questions))
            return whole
        verdicts: list[Verdict] = []
        for start in range(0, len(questions), self._judge.shard_size):
            piece = self._folder / "pieces" / f"{lang}-{start // self._judge.shard_size:05d}.parquet"
            running = self._running(lang, start, row)
            verdicts += self._piece(questions[start : start + self._judge.shard_size], piece, running)
        rows = [row(number, verdict) for number, verdict in enumerate(verdicts)]
        write_rows(whole, rows, schema.with_metadata({FINGERPRINT: fingerprint}))
        return whole

    def close(self) -> None:
        """All languages are whole: their pieces go."""
        shutil.rmtree(self._folder / "pieces", ignore_errors=True)

    def _running(self, lang: str, start: int, row: MakeRow) -> Running:
        def running(number: int, verdict: Verdict) -> str:
            key, found = (lang, start + number), row(start + number, verdict)[self._shown.column]
            self._sum -= self._values.pop(key, 0.0)  # an unreadable answer is asked for again
            if found is not None:
                self._values[key] = found
                self._sum += found
            mean = self._sum / len(self._values) if self._values else None
            return "" if mean is None else f"{self._shown.name} {self._shown.scale * mean:.1f}"

        return running

    def _piece(self, questions: Sequence[Question], path: Path, running: Running) -> list[Verdict]:
        fingerprint = _fingerprint(self._judge, questions)
        if _is_of(path, fingerprint):
            self._add(len(questions))
            return [
                Verdict(tuple(r["shares"]) if r["shares"] is not None else None, r["reason"], r["raw"], r["shortened"])
                for r in read_rows(path)
            ]
        verdicts = self._judge.ask(questions, self._add, running)
        rows = [{"shares": v.shares, "reason": v.reason, "raw": v.raw, "shortened": v.shortened} for v in verdicts]
        write_rows(path, rows, PIECE.with_metadata({FINGERPRINT: fingerprint}))
        return verdicts

    def _add(self, more: int) -> None:
        self._done += more
        self._reporter.progress(self._done, self._total)


def _fingerprint(judge: Judge, questions: Sequence[Question]) -> bytes:
    """Says by whom, with which template and on what a file of verdicts was made."""
    templates = {q.template: template(q.template) for q in questions}
    digest = hashlib.sha256(json.dumps([judge.name, templates]).encode())
    for q in questions:
        digest.update(json.dumps([q.id, q.template, q.labels, q.texts, q.values]).encode())
    return digest.hexdigest().encode()


def _is_of(path: Path, fingerprint: bytes) -> bool:
    return path.is_file() and (pq.read_schema(path).metadata or {}).get(FINGERPRINT) == fingerprint
