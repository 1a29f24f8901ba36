"""A small OpenAI-compatible endpoint on loopback: answers by a script, faults included, and counts what it is asked."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Answer:
    """What the stub sends back to one request."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: bool = False
    """Promise the whole body, send half of it and close."""


def says(text: str | None, *, top: Mapping[str, float] | None = None, **message: Any) -> Answer:
    """A chat completion that says `text`; `top`: the log-probs of the tokens at its first position."""
    choice: dict[str, Any] = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": text, **message},
    }
    if top is not None:
        entries = [{"token": token, "logprob": logp} for token, logp in top.items()]
        choice["logprobs"] = {"content": [{"token": text, "logprob": 0.0, "top_logprobs": entries}]}
    return completion([choice])


def completion(choices: list[dict[str, Any]]) -> Answer:
    usage = {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": "stub", "choices": choices, "usage": usage}
    return Answer(json.dumps(body).encode())


def fault(status: int, message: str = "no", *, headers: Mapping[str, str] | None = None, **error: Any) -> Answer:
    return Answer(json.dumps({"error": {"message": message, **error}}).encode(), status, headers or {})


Script = Callable[[dict[str, Any], int], Answer]
"""(the request's JSON, how often this question was asked before) → what to answer."""


class Stub:
    """Serves while the `with` block runs. Questions are told apart by their last message."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: Counter[str] = Counter()
        self.sent: list[tuple[float, dict[str, Any], dict[str, str]]] = []
        """Time, JSON and headers of every request."""
        self.answered = 0
        self.busy = self.most_busy = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _take(self, request: dict[str, Any], headers: dict[str, str]) -> Answer:
        question = request["messages"][-1]["content"]
        with self._lock:
            before = self.asked[question]
            self.asked[question] += 1
            self.sent.append((time.monotonic(), request, headers))
            self.busy += 1
            self.most_busy = max(self.most_busy, self.busy)
        answer = self.script(request, before)
        time.sleep(answer.delay)
        with self._lock:
            self.busy -= 1
            self.answered += answer.status == 200 and not answer.cut
        return answer

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["content-length"])))
                answer = stub._take(request, {k.lower(): v for k, v in self.headers.items()})
                try:
                    self.send_response(answer.status)
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", str(len(answer.body)))
                    for name, value in answer.headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(answer.body[: len(answer.body) // 2] if answer.cut else answer.body)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # the client was killed or gave up waiting
                self.close_connection |= answer.cut

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler
