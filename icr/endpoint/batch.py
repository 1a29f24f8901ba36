"""OpenAI's Batch API: many chat completions as one file, answered within a day at half the price.

A batch is written down before it is made, so a command that was killed finds it again: what was submitted is never
submitted twice. Protocol: https://platform.openai.com/docs/guides/batch, as of 2026-11.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, Protocol

import openai
from openai.types import Batch
from pydantic import BaseModel, TypeAdapter, ValidationError

from icr.base.content import hash_value
from icr.base.errors import UserError
from icr.base.files import read_json, write_json
from icr.config.schema import Endpoint as Settings
from icr.endpoint.address import Address
from icr.endpoint.chat import CODE, RESUME, NoAnswer
from icr.endpoint.reasons import IN_TIME, LOST, STATUS, UNREADABLE
from icr.endpoint.reply import BrokenAnswer, Reply, read_completion

PATH: Final = "/v1/chat/completions"
WINDOW: Final = "24h"
"""The only one there is: how long a batch may take."""
MOST_REQUESTS = 50_000
MOST_BYTES = 180_000_000
"""Of a batch's file; the limit is 200 MB."""
POLL = 30.0
"""First waits between two looks at a batch: half a minute."""
ENDED = ("completed", "failed", "expired", "cancelled")
RECENT = 100
"""Batches that are looked through for one that was made just before a kill."""

Heard = Callable[[str, Reply | NoAnswer], None]
"""(a request's key, what came of it)."""


class Tell(Protocol):
    """Shows the user a line, or, where it is not lasting, how far the work is."""

    def __call__(self, text: str, *, lasting: bool) -> None: ...


class Submitted(BaseModel):
    """A batch whose answers have not been collected."""

    file: str
    """The endpoint's id of the file of requests."""
    batch: str | None = None
    """The endpoint's id of the batch; None where the command ended before it was known."""
    keys: dict[str, str]
    """custom_id → key of the request."""


class Batches:
    """The batches of one model at one address."""

    def __init__(self, address: Address, settings: Settings, where: str, record: Path, tell: Tell, wait: float) -> None:
        """
        Args:
            where: the address as messages show it.
            record: JSON file of what was submitted and not collected yet.
            tell: takes what the user is told.
            wait: seconds between two looks at a batch.
        """
        self._address, self._where, self._path, self._wait = address, where, record, wait
        self._tell = tell
        self._client = openai.OpenAI(
            api_key=address.key,
            base_url=address.base,
            default_headers=address.headers,
            default_query=address.query,
            max_retries=settings.attempts - 1,
            timeout=settings.timeout,
        )

    def submit(self, bodies: Mapping[str, Mapping[str, object]]) -> None:
        """Have requests answered; `collect` waits for that.

        Raises:
            UserError: the endpoint has no Batch API, or does not take the batch.
        """
        for keys, content in _pack(bodies):
            with self._explained("the endpoint did not accept the batch"):
                file = self._client.files.create(file=("icr.jsonl", content), purpose="batch")
            row = Submitted(file=file.id, keys=keys)
            self._write([*self._read(), row])
            self._start(row)

    def collect(self, heard: Heard) -> None:
        """Wait for all that was submitted, by this command or one before; `heard` is called for each request.

        A batch is forgotten when `heard` has returned for all of its requests.

        Raises:
            UserError: the endpoint does not answer, or calls a batch failed.
        """
        for row in self._read():
            batch = self._wait_for(self._start(row))
            answers = dict(self._answers(batch))
            if batch.status == "failed" and not answers:
                self._forget(row)
                raise UserError(f"the endpoint did not accept a batch of {len(row.keys):,} questions: {_errors(batch)}",
                                where=self._where, do="fix what it says, or remove judge.batch")  # fmt: skip
            left = NoAnswer(IN_TIME if batch.status in ("expired", "cancelled") else LOST, f"batch {batch.status}")
            for id, key in row.keys.items():
                heard(key, answers.get(id, left))
            self._forget(row)

    def _start(self, row: Submitted) -> str:
        """The id of a batch, which is made where it was not made before."""
        if row.batch is None:
            with self._explained("the endpoint did not accept the batch"):
                recent = islice(self._client.batches.list(limit=RECENT), RECENT)
                row.batch = next((batch.id for batch in recent if batch.input_file_id == row.file), None)
                if row.batch is None:
                    made = self._client.batches.create(input_file_id=row.file, endpoint=PATH, completion_window=WINDOW)
                    row.batch = made.id
            self._write([row if other.file == row.file else other for other in self._read()])
            said = f"batch {row.batch}: {len(row.keys):,} questions submitted, answered within {WINDOW}"
            self._tell(said, lasting=True)
        return row.batch

    def _wait_for(self, id: str) -> Batch:
        while True:
            with self._explained(f"the batch {id} cannot be looked up"):
                batch = self._client.batches.retrieve(id)
            if batch.status in ENDED:
                return batch
            counts = batch.request_counts
            done = f", {counts.completed + counts.failed:,} of {counts.total:,}" if counts and counts.total else ""
            self._tell(f"batch {id}: {batch.status}{done}", lasting=False)
            time.sleep(self._wait)

    def _answers(self, batch: Batch) -> Iterator[tuple[str, Reply | NoAnswer]]:
        """custom_id → answer, of both files of a batch."""
        for file in (batch.error_file_id, batch.output_file_id):
            if not file:
                continue
            with self._explained(f"the answers of the batch {batch.id} cannot be fetched"):
                text = self._client.files.content(file).content.decode(errors="replace")
            for line in text.splitlines():
                found = _parse(line)
                id = found.get("custom_id") if isinstance(found, dict) else None
                if isinstance(id, str) and isinstance(found, dict):
                    yield id, read_line(found)

    def _explained(self, what: str) -> _Explained:
        return _Explained(self._address, self._where, what)

    def _read(self) -> list[Submitted]:
        if not self._path.is_file():
            return []
        try:
            return TypeAdapter(list[Submitted]).validate_python(read_json(self._path))
        except (ValueError, ValidationError) as error:
            raise UserError(
                "the record of submitted batches cannot be read",
                where=str(self._path),
                do="restore the file; or move it away, and its batches are paid for again",
            ) from error

    def _write(self, rows: Sequence[Submitted]) -> None:
        if rows:
            write_json(self._path, [row.model_dump(mode="json") for row in rows])
        else:
            self._path.unlink(missing_ok=True)

    def _forget(self, row: Submitted) -> None:
        self._write([other for other in self._read() if other.file != row.file])


def read_line(line: Mapping[str, object]) -> Reply | NoAnswer:
    """The answer in a line of a batch's files. Its usage says that it was paid for at the price of batches."""
    response, error = line.get("response"), line.get("error")
    if isinstance(error, dict) and not isinstance(response, dict):
        expired = error.get("code") == "batch_expired"
        return NoAnswer(IN_TIME if expired else LOST, str(error.get("message", error.get("code")))[:200])
    if not isinstance(response, dict):
        return NoAnswer(UNREADABLE, "a line without a response")
    if response.get("status_code") != 200:
        return NoAnswer(f"{STATUS}{response.get('status_code')}", json.dumps(response.get("body"))[:200])
    try:
        reply = read_completion(json.dumps(response.get("body")).encode())
    except BrokenAnswer as broken:
        return NoAnswer(UNREADABLE, str(broken)[:200])
    reply.usage = {**(reply.usage or {}), "batched": True}
    return reply


def _pack(bodies: Mapping[str, Mapping[str, object]]) -> Iterator[tuple[dict[str, str], bytes]]:
    """(custom_id → key, the file's content) of each batch."""
    keys: dict[str, str] = {}
    lines: list[bytes] = []
    size = 0
    for key, body in bodies.items():
        id = hash_value(key)[:32]
        line = json.dumps({"custom_id": id, "method": "POST", "url": PATH, "body": body}).encode() + b"\n"
        if keys and (len(keys) == MOST_REQUESTS or size + len(line) > MOST_BYTES):
            yield keys, b"".join(lines)
            keys, lines, size = {}, [], 0
        keys[id] = key
        lines.append(line)
        size += len(line)
    if keys:
        yield keys, b"".join(lines)


def _errors(batch: Batch) -> str:
    found = [error.message or error.code or "?" for error in (batch.errors.data if batch.errors else None) or []]
    return "; ".join(dict.fromkeys(found))[:300] or "it does not say why"


def _parse(line: str) -> object:
    try:
        found: object = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    return found


class _Explained:
    """Turns the package's errors into the user's."""

    def __init__(self, address: Address, where: str, what: str) -> None:
        self._address, self._where, self._what = address, where, what

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, openai.APIError):
            return
        said = CODE.sub("", error.message) if isinstance(error, openai.APIStatusError) else str(error)
        said = " ".join(self._address.without_key(said).split())[:200]
        if isinstance(error, openai.NotFoundError):
            raise UserError(f"the endpoint has no Batch API: {said}", where=self._where,
                            do="remove judge.batch: questions are then asked one by one") from None  # fmt: skip
        raise UserError(f"{self._what}: {said}", where=self._where, do=RESUME) from None
