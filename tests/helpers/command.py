"""The command line as a user calls it: in this process, or in one of its own."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from icr.endpoint.ledger import command_ledger

ICR = [sys.executable, "-m", "icr.commands.main"]
"""`icr` as a process of its own, for what is killed or is about processes. A start imports for ten seconds."""


def icr(
    *arguments: object,
    cwd: Path | None = None,
    code: int | None = 0,
    env: Mapping[str, str | None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `icr` with these arguments as its entry point does, in this process; a traceback is an exception here.

    Args:
        cwd: the current folder; a custom class that is imported from it is forgotten afterwards.
        code: the exit code that it has to end with; None for any.
        env: what is different in the environment; None takes a variable out.
    """
    from icr.commands.main import main

    words = ["icr", *map(str, arguments)]
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    command_ledger.cache_clear()
    ended: object = 0
    with _process_of(cwd, env or {}):
        sys.argv = words
        try:
            with redirect_stdout(out), redirect_stderr(err):
                main()
        except SystemExit as error:
            ended = error.code or 0
    done = subprocess.CompletedProcess(words, int(str(ended)), _text(out), _text(err))
    assert code is None or done.returncode == code, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    return done


@contextmanager
def _process_of(cwd: Path | None, env: Mapping[str, str | None]) -> Iterator[None]:
    """What a command changes of its process is afterwards as it was."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    argv, path, environment, folder, known = sys.argv, list(sys.path), dict(os.environ), os.getcwd(), set(sys.modules)
    try:
        os.environ.update({name: value for name, value in env.items() if value is not None})
        for name in [name for name, value in env.items() if value is None]:
            os.environ.pop(name, None)
        if cwd is not None:
            os.chdir(cwd)
        yield
    finally:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv, sys.path[:] = argv, path
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for name in set(sys.modules) - known if cwd is not None else ():
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith(f"{cwd}{os.sep}"):
                del sys.modules[name]


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode()
