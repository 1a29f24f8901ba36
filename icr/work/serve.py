"""The worker's side of a pool: tables come in on a socket, a registered function works on each, tables go out."""

from __future__ import annotations

import contextlib
import importlib
import os
import queue
import select
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from icr.base.errors import UserError, explain_os_error
from icr.base.progress import Reporter
from icr.work.messages import Header, Message, MessageReader, pack
from icr.work.pool import Task

ALIVE_SECONDS = 0.5
PROGRESS_SECONDS = 0.2


class State(Protocol):
    """What a worker keeps from one shard to the next: engines, loaded models."""

    def rest(self) -> None:
        """Give device memory back; the next shard takes it again."""


S = TypeVar("S", bound=State)
Function = Callable[[S, Any, pa.Table, Reporter], pa.Table]
"""Works on the rows of one shard. The second argument is of the task class that it is registered with."""


def serve(tasks: Mapping[str, tuple[type[Task], Function[S]]], state: S) -> None:
    """Work for the pool that started this process, until the pool closes the connection.

    The pool's command line is `python -m MODULE CHANNEL DEPTH`. Functions run in the main thread, where DEPTH is more
    than 1 in further threads, too: they and `state` then have to allow for that. The first shard is always the main
    thread's.

    Args:
        tasks: registered name → task class and function.
        state: given to every function, for as long as the process lives.
    """
    channel, depth = int(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(channel, False)  # a descendant that held it would keep the pool from seeing this process end
    _Server(tasks, state, socket.socket(fileno=channel), depth).run()


class _Server:
    def __init__(
        self,
        tasks: Mapping[str, tuple[type[Task], Function[S]]],
        state: S,
        channel: socket.socket,
        depth: int,
    ) -> None:
        self._tasks, self._state, self._depth = tasks, state, depth
        self._channel = channel
        self._sending = threading.Lock()
        self._todo: queue.Queue[Message | None] = queue.Queue()
        self._unfinished = 0
        self._counting = threading.Lock()

    def run(self) -> None:
        threading.Thread(target=self._receive, daemon=True).start()
        threading.Thread(target=self._stay_alive, daemon=True).start()
        first = True
        while (message := self._todo.get()) is not None:
            if message.kind == "rest":
                self._rest()
                continue
            if message.kind == "warm":
                import_early(message.text("modules").split())
                self._count(-1)
                continue
            if first:
                first = False
                for _ in range(self._depth - 1):
                    threading.Thread(target=self._work_along, daemon=True).start()
            self._work(message)

    def _receive(self) -> None:
        for message in MessageReader(self._channel).messages():
            if message.kind in ("work", "warm"):
                self._count(1)
            self._todo.put(message)
        if self._unfinished:
            os._exit(1)  # nobody wants the results any more
        self._todo.put(None)

    def _stay_alive(self) -> None:
        while True:
            time.sleep(ALIVE_SECONDS)
            if self._unfinished:
                self.offer({"kind": "alive"})

    def _work_along(self) -> None:
        while (message := self._todo.get()) is not None:
            if message.kind == "work":
                self._work(message)
            else:
                self._todo.put(message)  # the main thread's
                time.sleep(0.01)
        self._todo.put(None)

    def _count(self, change: int) -> None:
        with self._counting:
            self._unfinished += change

    def _work(self, message: Message) -> None:
        ticket = message.number("ticket")
        reporter = _TicketReporter(self, ticket)
        try:
            kind, function = self._tasks[message.text("task")]
            task = kind.model_validate_json(message.text("payload"))
            table = function(self._state, task, message.table, reporter)
            answer: Header = {"kind": "done", "ticket": ticket, "tokens": reporter.tokens}
            pieces = pack(answer, table)
        except BaseException as error:  # SystemExit, too: in a thread it would leave the shard without an answer
            pieces = pack({"kind": "failed", "ticket": ticket, **describe_error(error)})
        self._count(-1)
        self.send(pieces)

    def _rest(self) -> None:
        try:
            self._state.rest()
        except Exception:
            traceback.print_exc()
            os._exit(1)  # that gives the memory back for certain
        self.send(pack({"kind": "rested"}))

    def send(self, pieces: list[memoryview]) -> None:
        try:
            with self._sending:
                for piece in pieces:
                    self._channel.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            os._exit(1)  # the pool is gone

    def offer(self, header: Header) -> None:
        """Send a small message if that needs no waiting: a driver that is busy elsewhere must not hold work up."""
        if self._sending.acquire(blocking=False):
            try:
                if select.select([], [self._channel], [], 0)[1]:
                    self._channel.sendall(pack(header)[0])
            except (BrokenPipeError, ConnectionResetError):
                os._exit(1)
            finally:
                self._sending.release()


class _TicketReporter:
    """The reporter of one shard. At most five lines of progress a second; notes are sent at once."""

    def __init__(self, server: _Server, ticket: int) -> None:
        self._server, self._ticket = server, ticket
        self._last = 0.0
        self._status = ""
        self.tokens = 0

    def progress(self, done: int, total: int, tokens: int = 0) -> None:
        self.tokens = tokens
        now = time.monotonic()
        if now - self._last > PROGRESS_SECONDS:
            self._last = now
            header: Header = {"kind": "progress", "ticket": self._ticket, "done": done, "total": total}
            self._server.offer({**header, "tokens": tokens, "status": self._status})

    def note(self, text: str) -> None:
        self._server.send(pack({"kind": "note", "text": text}))

    def status(self, text: str) -> None:
        """Goes with the next line of progress."""
        self._status = text


def import_early(modules: Iterable[str]) -> None:
    """Import what the first shard will need. What cannot be imported is said by the shard that needs it."""
    for module in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(module)


def describe_error(error: BaseException) -> Header:
    """An error as data: a user's error whole, of anything else type and text, with the traceback in the log."""
    known = explain_os_error(error) if isinstance(error, OSError) else None
    user = error if isinstance(error, UserError) else known
    if user is not None:
        # a list of problems is in the text alone
        what = user.what if type(user) is UserError else str(user)
        return {"by_user": True, "what": what, "where": user.where, "do": user.do}
    traceback.print_exception(error)
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    return {"by_user": False, "what": f"{type(error).__name__}: {error}"}
