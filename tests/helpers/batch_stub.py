"""OpenAI's Batch API as its guide has it: files, batches and their two files of answers. Counts what is billed."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.helpers.stub_server import Answer, fault, says

Line = dict[str, Any]


class BatchApi:
    """For `Stub.other`. A batch ends when it has been looked at `looks` times."""

    def __init__(self, answer: Callable[[dict[str, Any]], Answer] | None = None, looks: int = 2) -> None:
        """`answer`: of a request's body."""
        self.answer = answer or (lambda body: says("A"))
        self.looks = looks
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.billed: Counter[str] = Counter()
        """By question: how often it was in a batch that was made."""
        self.status = "completed"
        self.errors: list[dict[str, Any]] = []
        self.calls: list[tuple[str, str]] = []
        self.fails: Callable[[str, str], Answer | None] = lambda method, path: None
        """What is answered instead, before anything is done."""

    def __call__(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        path = path.partition("?")[0].removeprefix("/v1")
        self.calls.append((method, path))
        failed = self.fails(method, path)
        if failed:
            return failed
        return self._do(method, path, headers, body)

    def _do(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        if (method, path) == ("POST", "/files"):
            return self._upload(headers, body)
        if (method, path) == ("POST", "/batches"):
            return self._create(json.loads(body))
        if (method, path) == ("GET", "/batches"):
            return _json({"object": "list", "data": list(self.batches.values()), "has_more": False})
        if found := re.fullmatch(r"/batches/(\w+)", path):
            return self._look(found[1])
        if found := re.fullmatch(r"/files/([\w-]+)/content", path):
            return Answer(self.files[found[1]])
        return fault(404, f"no {method} {path}")

    def _upload(self, headers: dict[str, str], body: bytes) -> Answer:
        boundary = headers["content-type"].partition("boundary=")[2].encode()
        parts = [part.partition(b"\r\n\r\n") for part in body.split(b"--" + boundary)]
        fields = {found[1]: content.removesuffix(b"\r\n") for head, _, content in parts
                  if (found := re.search(rb'name="(\w+)"', head))}  # fmt: skip
        assert fields[b"purpose"] == b"batch"
        id = f"file-{len(self.files)}"
        self.files[id] = fields[b"file"]
        return _json({"id": id, "object": "file", "bytes": len(fields[b"file"]), "created_at": 0,
                      "filename": "icr.jsonl", "purpose": "batch", "status": "processed"})  # fmt: skip

    def _create(self, asked: dict[str, Any]) -> Answer:
        assert asked["endpoint"] == "/v1/chat/completions" and asked["completion_window"] == "24h"
        lines = [json.loads(line) for line in self.files[asked["input_file_id"]].splitlines()]
        assert all(line["method"] == "POST" and line["url"] == asked["endpoint"] for line in lines)
        assert len({line["custom_id"] for line in lines}) == len(lines)
        id = f"batch_{len(self.batches)}"
        self.batches[id] = {
            "id": id, "object": "batch", "endpoint": asked["endpoint"], "input_file_id": asked["input_file_id"],
            "completion_window": "24h", "status": "validating", "created_at": 0, "looked": 0,
            "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
        }  # fmt: skip
        if self.status != "failed":
            self.billed.update(line["body"]["messages"][-1]["content"] for line in lines)
        return _json(self.batches[id])

    def _look(self, id: str) -> Answer:
        batch = self.batches[id]
        batch["looked"] += 1
        if batch["looked"] < self.looks:
            batch["status"] = "in_progress"
        elif batch["status"] != self.status:
            self._end(batch)
        return _json(batch)

    def _end(self, batch: dict[str, Any]) -> None:
        batch["status"] = self.status
        if self.status == "failed":
            batch["errors"] = {"object": "list", "data": self.errors}
            return
        good: list[Line] = []
        bad: list[Line] = []
        for line in map(json.loads, self.files[batch["input_file_id"]].splitlines()):
            answer, row = self.answer(line["body"]), {"id": "batch_req", "custom_id": line["custom_id"]}
            if answer.status == 0:  # not reached before the window's end
                bad.append({**row, "response": None, "error": {"code": "batch_expired", "message": "expired"}})
                continue
            body = json.loads(answer.body)
            response = {"status_code": answer.status, "request_id": "r", "body": body}
            (good if answer.status == 200 else bad).append({**row, "response": response, "error": None})
        for name, rows in (("output_file_id", good), ("error_file_id", bad)):
            if rows:
                batch[name] = f"{name}-{batch['id']}"
                self.files[batch[name]] = "".join(json.dumps(row) + "\n" for row in reversed(rows)).encode()


def _json(value: object) -> Answer:
    return Answer(json.dumps(value).encode())
