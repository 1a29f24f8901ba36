"""A small OpenAI-compatible endpoint on loopback: answers by a script, faults included, and counts what it is asked.

`python -m tests.helpers.stub_server --delay 0.05` serves in a process of its own, prints its port, and always says A.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
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


def completion(choices: list[dict[str, Any]], prompt_tokens: int = 7, completion_tokens: int = 1) -> Answer:
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": "stub", "choices": choices, "usage": usage}
    return Answer(json.dumps(body).encode())


def fault(status: int, message: str = "no", *, headers: Mapping[str, str] | None = None, **error: Any) -> Answer:
    return Answer(json.dumps({"error": {"message": message, **error}}).encode(), status, headers or {})


Script = Callable[[dict[str, Any], int], Answer]
"""(the request's JSON, how often this question was asked before) → what to answer."""


Other = Callable[[str, str, dict[str, str], bytes], Answer]
"""(method, path, headers, body) → what to answer."""


class Stub:
    """Serves while the `with` block runs, in a thread. Questions are told apart by their last message."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: Counter[str] = Counter()
        self.answered_of: Counter[str] = Counter()
        """By question: readable answers that were written to the end."""
        self.sent: list[tuple[float, dict[str, Any], dict[str, str]]] = []
        """Time, JSON and headers of every request."""
        self.paths: list[str] = []
        self.other: Other | None = None
        """Answers requests to other paths than that of chat completions."""
        self.busy = self.most_busy = 0
        self.connections: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(
            self._loop.create_server(lambda: _Connection(self), "127.0.0.1", 0)
        )
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"

    @property
    def answered(self) -> int:
        return sum(self.answered_of.values())

    def serve(self) -> None:
        self._loop.run_forever()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        for connection in list(self.connections):
            connection.transport.abort()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()


class _Connection(asyncio.Protocol):
    """One kept-alive HTTP/1.1 connection, without what the client never sends."""

    transport: asyncio.Transport

    def __init__(self, stub: Stub) -> None:
        self._stub, self._loop = stub, asyncio.get_running_loop()
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._stub.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._stub.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", 0))
        if len(rest) >= length:
            self._received = rest[length:]
            method, path = first.split(" ")[:2]
            self._stub.paths.append(path)
            if self._stub.other is not None and "/chat/completions" not in path:
                self._write(self._stub.other(method, path, headers, rest[:length]))
            else:
                self._take(json.loads(rest[:length]), headers)

    def _take(self, request: dict[str, Any], headers: dict[str, str]) -> None:
        stub, question = self._stub, request["messages"][-1]["content"]
        before = stub.asked[question]
        stub.asked[question] += 1
        stub.sent.append((time.monotonic(), request, headers))
        stub.busy += 1
        stub.most_busy = max(stub.most_busy, stub.busy)
        answer = stub.script(request, before)
        if answer.delay:
            self._loop.call_later(answer.delay, self._send, question, answer)
        else:
            self._send(question, answer)

    def _send(self, question: str, answer: Answer) -> None:
        self._stub.busy -= 1
        if self.transport.is_closing():  # the client was killed or gave up waiting
            return
        self._write(answer)
        if not answer.cut and answer.status == 200:
            self._stub.answered_of[question] += 1

    def _write(self, answer: Answer) -> None:
        fields = {"content-type": "application/json", "content-length": str(len(answer.body)), **answer.headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        body = answer.body[: len(answer.body) // 2] if answer.cut else answer.body
        self.transport.write(f"HTTP/1.1 {answer.status} X\r\n{head}\r\n".encode() + body)
        if answer.cut:
            self.transport.close()


def prefers_good(request: dict[str, Any], before: int) -> Answer:
    question = request["messages"][-1]["content"]
    return says("A" if question.index("\ngood") < question.index("\nbad") else "B")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay", type=float, default=0.05, help="seconds from a question to its answer")
    args = parser.parse_args()
    top = {"A": -0.2, "B": -1.8, " A": -7.0, " B": -8.0, "The": -9.0}
    answer = replace(says("A", top=top), delay=args.delay)
    stub = Stub(lambda request, before: answer)
    print(stub.port, flush=True)
    stub.serve()


if __name__ == "__main__":
    main()
