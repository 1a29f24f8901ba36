"""One worker of the local pool as the driver sees it: its processes, its channel, its log."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from icr.work.causes import read_from
from icr.work.messages import Message, MessageReader
from icr.work.pool import Done, Event, Failed, Failure, Note, Progress, WorkerId

GUARD = Path(__file__).with_name("guard.py")
END_SECONDS = 2.0
"""How long a guard may take to end everything below it, before its process group is killed from here."""


class WorkerProcess:
    """A guard with the worker below it, in a separate session: Ctrl-C reaches only the driver."""

    def __init__(
        self, id: WorkerId, module: str, depth: int, log: Path, env: Mapping[str, str], keep_fds: Sequence[int]
    ) -> None:
        self.id, self.log = id, log
        self.in_flight: set[int] = set()
        self.has_rested = False
        self.outbox: deque[memoryview] = deque()
        self.channel, theirs = socket.socketpair()
        self.channel.setblocking(False)
        self.reader = MessageReader(self.channel)
        # nobody but this process ever has the writing end, so that it closes when this process ends, however that is
        guarded, self._guard = os.pipe()
        worker = [sys.executable, "-m", module, str(theirs.fileno()), str(depth)]
        guard = [sys.executable, "-I", "-S", str(GUARD), str(guarded), str(os.getpid()), str(theirs.fileno())]
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(log, "ab") as file:
                self._log_start = file.tell()
                file.write(f"== {time.strftime('%Y-%m-%d %H:%M:%S')} worker {id} starts\n".encode())
                file.flush()
                self.popen = subprocess.Popen(
                    [*guard, *worker],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=env,
                    start_new_session=True,
                    pass_fds=(guarded, theirs.fileno(), *keep_fds),
                )
        except BaseException:
            os.close(self._guard)
            self.channel.close()
            raise
        finally:
            os.close(guarded)
            theirs.close()

    def has_ended(self) -> bool:
        return self.popen.poll() is not None

    def flush(self) -> None:
        """Send what the channel takes without waiting."""
        try:
            while self.outbox:
                sent = self.channel.send(self.outbox[0])
                self.outbox[0] = self.outbox[0][sent:]
                if not self.outbox[0]:
                    self.outbox.popleft()
        except BlockingIOError:
            pass
        except OSError:  # it has ended; its end is noticed where its messages are read
            self.outbox.clear()

    def understand(self, message: Message, explain: Callable[[WorkerProcess, str], Failure]) -> Event | None:
        """The event that a message is; None where it only says that the worker lives or has rested."""
        ticket = message.number("ticket")
        match message.kind:
            case "done":
                self.in_flight.discard(ticket)
                return Done(self.id, ticket, message.table, {"tokens": message.number("tokens")})
            case "failed":
                self.in_flight.discard(ticket)
                what = message.text("what")
                if message.header["by_user"]:
                    failure = Failure(what, message.text("where"), message.text("do"), by_user=True, log=str(self.log))
                else:
                    failure = explain(self, what)
                return Failed(self.id, ticket, failure)
            case "progress":
                done, total, tokens = message.number("done"), message.number("total"), message.number("tokens")
                return Progress(self.id, ticket, done, total, tokens, message.text("status"))
            case "note":
                return Note(self.id, message.text("text"))
            case "rested":
                self.has_rested = True
        return None

    def end(self, *, gently: bool) -> str:
        """End every process of this worker and close what is open; says how it ended.

        Args:
            gently: it ended by itself, so the guard is given a moment to end what is left and to end as it did.
        """
        if gently:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(END_SECONDS)
        os.close(self._guard)  # what makes the guard end everything below it
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(END_SECONDS)
        with contextlib.suppress(ProcessLookupError):  # the guard itself may have been killed
            os.killpg(self.popen.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(END_SECONDS)
        self.channel.close()
        code = self.popen.poll()
        if code is None:
            return "does not end although it was killed"
        if code < 0:
            return f"killed by {signal.Signals(-code).name}" + (" (out of memory?)" if code == -signal.SIGKILL else "")
        return f"ended with exit code {code} and no result"

    def read_log(self) -> str:
        """What this process has written to its log, the end of it if that is long."""
        return read_from(self.log, self._log_start)
