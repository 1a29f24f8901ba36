"""Machines as they are: a cache that is a file, no locks, other alphabets; with a process for what its start reads."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from tests.malformed.bench import Bench, Case


def no_locks(bench: Bench, patch: pytest.MonkeyPatch) -> None:
    def flock(fd: int, how: int) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    patch.setattr(fcntl, "flock", flock)


def read_only(bench: Bench, patch: pytest.MonkeyPatch) -> None:
    """The run's folder cannot be made."""
    made = os.mkdir

    def mkdir(path: str, mode: int = 0o777) -> None:
        if str(path).startswith(str(bench.folder / "run")):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        made(path, mode)

    patch.setattr(os, "mkdir", mkdir)


def full(bench: Bench, patch: pytest.MonkeyPatch) -> None:
    """The disk takes no more."""

    def fsync(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(bench.folder / "run/config.yaml"))

    patch.setattr(os, "fsync", fsync)


def given(
    name: str,
    arguments: Callable[[Bench], list[object]],
    *says: str,
    environment: Mapping[str, str] | None = None,
    code: int = 2,
    own_process: bool = False,
) -> Case:
    """
    Args:
        environment: variable → value, with DIR for the case's folder; UNSET takes it away.
    """

    def make(bench: Bench) -> list[object]:
        made = {key: value.replace("DIR", str(bench.folder)) for key, value in (environment or {}).items()}
        bench.environment.update(made)
        return arguments(bench)

    return Case(f"environment: {name}", make, says, code, own_process)


def alone(name: str, arguments: Callable[[Bench], list[object]], *says: str, **more: Any) -> Case:
    """As `given`, for what the interpreter or a library reads at its start."""
    return given(name, arguments, *says, **more, own_process=True)


def validate(bench: Bench) -> list[object]:
    return ["validate", bench.config()]


def asked(bench: Bench) -> list[object]:
    judge = {"judge.kind": "openai", "judge.model": "m", "judge.benchmarks": "[accuracy]"}
    return ["validate", bench.config(judge)]


def started(bench: Bench) -> list[object]:
    return ["iterate", "--config", bench.config()]


def converted(bench: Bench) -> list[object]:
    """A model that has to be converted into the cache."""
    bench.write("cache", "a file")
    return ["validate", bench.config({"models.reference": str(bench.write("m.gguf", b"GGUF"))})]


def named(bench: Bench) -> list[object]:
    """Paths with blanks and umlauts."""
    folder = bench.parallel()
    moved = folder.rename(bench.folder / "Prüf ung → α")
    return ["validate", bench.config({"prompts.path": f'"{moved}"'}, name="Grüße an alle.yaml")]


def cases() -> Iterator[Case]:
    yield given("a blank key", asked, "OPENAI_API_KEY", "key", environment={"OPENAI_API_KEY": "  "})
    yield given("a key of two lines", asked, "OPENAI_API_KEY", environment={"OPENAI_API_KEY": "sk-a\nb"})
    yield given("a key with an umlaut", asked, "OPENAI_API_KEY", environment={"OPENAI_API_KEY": "sk-ä"})
    yield given(
        "an address that is none", asked, "OPENAI_BASE_URL",
        environment={"OPENAI_BASE_URL": "host", "OPENAI_API_KEY": "k"},
    )  # fmt: skip
    yield given(
        "a cache that is a file", converted, "ICR_CACHE", "cache is a file", environment={"ICR_CACHE": "DIR/cache"}
    )
    yield given("a home that is a file, for a model to convert", converted, "ICR_CACHE", "cache is a file",
                environment={"HOME": "DIR/cache"})  # fmt: skip
    yield alone("LC_ALL=C", named, "is fine", environment={"LC_ALL": "C"}, code=0)
    yield alone("a terminal of ASCII", lambda b: ["status", "α→β"], "is not a run folder",
                environment={"PYTHONIOENCODING": "ascii"})  # fmt: skip
    yield given("blanks and umlauts in paths", named, "is fine", code=0)
    yield alone("no home", validate, "is fine", environment={"HOME": "DIR/none"}, code=0)
    yield alone("a home that is a file", validate, "is fine", environment={"HOME": "DIR/config.yaml"}, code=0)
    yield Case("environment: no file locks", started, (".lock", "no locks"), system=no_locks)
    yield Case("environment: a read-only folder", started, ("run", "read-only file system"), system=read_only)
    yield Case("environment: a full disk", started, ("the disk is full", "config.yaml"), system=full)
    yield alone("COLUMNS that is no number", lambda b: ["status", b.finished()], "rounds done",
                environment={"COLUMNS": "wide"}, code=0)  # fmt: skip
    yield alone("no folder for temporary files", validate, "is fine", environment={"TMPDIR": "DIR/none"}, code=0)
