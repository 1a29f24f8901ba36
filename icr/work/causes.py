"""Why a worker failed, where its own words only point to another process: the cause, out of its log.

vLLM's engine and torchrun's ranks run in processes of their own, which write into the log of the worker that started
them. That worker then says "see root cause above". Here the log is read for it.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from icr.base.errors import UserError
from icr.work.pool import Failure

WRITER = re.compile(
    r"^(?:\((?P<process>[^()]+ pid=\d+)\) (?:(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) \S+ \S+ \[[^\]]*\] ?)?"
    r"|\[(?P<rank>rank\d+)\]: ?)"
)
"""What vLLM puts before each line of a log record, and torch before a rank's."""
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
BEGIN = "Traceback (most recent call last):"
CHAINED = ("During handling of the above exception", "The above exception was the direct cause")
HEADLINE = re.compile(r"^[A-Za-z_][\w.]*(?:: .*)?$")
"""The line of a traceback that has no indent: the exception's type and text."""
SECONDARY = re.compile(
    r"see root cause above|see (?:the )?stack trace|check the stack trace above|EngineDeadError|ChildFailedError"
    r"|DistBackendError|DistNetworkError|Connection closed by peer|remote process exited",
    re.IGNORECASE,
)
"""Texts of exceptions that another process's end has caused."""
START_FAILED = "Engine core initialization failed"
KILLED = re.compile(r"'[^']*': -(\d+)[,}]|exitcode\s*: -(\d+)")
"""How vLLM and torchrun name the signal that ended a process."""
SHOWN_LINES = 6
"""Of an exception's text."""
TAIL_LINES = 12
READ_BYTES = 2**19
"""Of a log that is longer only the end is read; a failed start of an engine on eight GPUs writes less."""


def read_from(log: Path, start: int) -> str:
    """A log from the byte `start` on, or the end of that."""
    with open(log, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(start, size - READ_BYTES))
        return file.read().decode(errors="replace")


def last_lines(text: str) -> str:
    """What is shown of a log where no cause was found."""
    return "\n".join(text.splitlines()[-TAIL_LINES:])


def describe_failure(what: str, log: Path, text: str) -> Failure:
    """A worker's failure, by its cause where the worker only points to that.

    Args:
        what: how it failed, in its own words.
        text: what it has written to its log.
    """
    cause = find_cause(text, what) if is_secondary(what) else None
    known = explain_cause(cause) if cause else None
    if known:
        return Failure(known.what, f"{known.where} (log: {log})", known.do, by_user=True, log=str(log))
    return Failure(cause or what, log=str(log), tail=last_lines(text))


@dataclass(frozen=True)
class Raised:
    """An exception whose traceback is in a log."""

    process: str
    """Who wrote it; empty: the worker itself, or an engine's process that ends without the logger."""
    text: str
    """Type and message, with the lines of the message that are indented."""
    chained: bool
    """Whether it came up while the one before was handled."""

    @property
    def secondary(self) -> bool:
        return bool(SECONDARY.search(self.text))


def is_secondary(what: str) -> bool:
    """Whether a failure's text only points to another process's."""
    return bool(SECONDARY.search(what))


def find_cause(log: str, what: str = "") -> str | None:
    """What made an engine or a rank fail, as its own traceback or the signal that ended it says; None if neither does.

    Args:
        log: all that was written since the worker started. Of several failed starts the last one counts.
        what: how the worker itself failed.
    """
    raised = list(read_exceptions(log))
    starts = [n for n, found in enumerate(raised) if START_FAILED in found.text]
    if len(starts) > 1:
        raised = raised[starts[-2] + 1 :]
    for number, found in enumerate(raised):
        if found.secondary:
            continue
        for later in raised[number + 1 :]:
            if later.process != found.process or not later.chained or later.secondary:
                break
            found = later
        return found.text
    if killed := KILLED.search(what) or KILLED.search(log):
        name = signal.Signals(int(killed[1] or killed[2])).name
        return f"its process was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return None


def read_exceptions(log: str) -> Iterator[Raised]:
    """Every exception with a traceback, in the order in which the tracebacks end; lines of several processes mix."""
    open_: dict[str, list[str] | None] = {}
    chained: set[str] = set()
    ending: tuple[str, list[str], bool] | None = None
    for process, line in _lines(log):
        if ending and ending[0] == process:
            if line.startswith((" ", "\t")) and len(ending[1]) < SHOWN_LINES:
                ending[1].append(line.rstrip())
                continue
            yield Raised(process, "\n".join(ending[1]), ending[2])
            ending = None
        if line.strip() == BEGIN:
            open_[process] = []
        elif line.startswith(CHAINED):
            chained.add(process)
        elif open_.get(process) is not None and HEADLINE.match(line):
            if ending:
                yield Raised(ending[0], "\n".join(ending[1]), ending[2])
            ending = process, [line], process in chained
            chained.discard(process)
            open_[process] = None
    if ending:
        yield Raised(ending[0], "\n".join(ending[1]), ending[2])


def _lines(log: str) -> Iterator[tuple[str, str]]:
    """(process, what it wrote) of each line."""
    for line in COLOUR.sub("", log).splitlines():
        writer = WRITER.match(line)
        if writer is None:
            yield "", line
        else:
            yield writer["process"] or writer["rank"], line[writer.end() :]


def explain_cause(cause: str) -> UserError | None:
    """A cause that the user can act on, in the words of the config; None for others."""
    for pattern, explain in KNOWN:
        if match := re.search(pattern, cause, re.DOTALL):
            return explain(match)
    return None


def _not_free(found: re.Match[str]) -> UserError:
    free, total = float(found[1]), float(found[2])
    share = int(100 * free / total) / 100 - 0.01  # rounded down, and a little left for what others take meanwhile
    lower = f", or set sampling.gpu_memory to {share:.2f} or less" if share >= SMALLEST_SHARE else ""
    return UserError(
        f"{free:.1f} of {total:.1f} GiB of the GPU's memory are free, but the engine asks for {found[4]} GiB",
        where=f"sampling.gpu_memory: {found[3]}",
        do=f"end the other processes on the GPU (nvidia-smi lists them){lower}",
    )


def _too_long(found: re.Match[str]) -> UserError:
    estimate = re.search(r"estimated maximum model length is (\d+)", found.string)
    return UserError(
        f"a sequence of {found[1]} tokens does not fit into the engine's memory"
        + (f"; about {estimate[1]} tokens would" if estimate else ""),
        where="sampling.max_tokens, sampling.gpu_memory",
        do="lower sampling.max_tokens (and judge.max_tokens), remove the longest prompts, raise sampling.gpu_memory, "
        "or use more GPUs for each engine (sampling.tensor_parallel)",
    )


def _no_room(found: re.Match[str]) -> UserError:
    return UserError(
        "the engine's share of the GPU's memory is only large enough for the model's weights",
        where="sampling.gpu_memory",
        do="raise it, use more GPUs for each engine (sampling.tensor_parallel), or use a smaller model",
    )


def _full(found: re.Match[str]) -> UserError:
    return UserError(
        f"the GPU's memory is full: {found[0].splitlines()[0]}",
        where="sampling.gpu_memory",
        do="end other processes on the GPU (nvidia-smi lists them), lower sampling.gpu_memory, use more GPUs for each "
        "engine (sampling.tensor_parallel), or use a smaller model",
    )


def _heads(found: re.Match[str]) -> UserError:
    return UserError(
        f"{found[1]} attention heads cannot be split over {found[2]} GPUs",
        where=f"sampling.tensor_parallel: {found[2]}",
        do=f"set it to a number that divides {found[1]}",
    )


SMALLEST_SHARE = 0.1
"""A smaller share of a GPU's memory is not worth proposing."""
KNOWN: tuple[tuple[str, Callable[[re.Match[str]], UserError]], ...] = (
    (
        r"\(([\d.]+)/([\d.]+) GiB\) on startup is less than desired GPU memory utilization \(([\d.]+), ([\d.]+) GiB\)",
        _not_free,
    ),
    (r"max seq len \((\d+)\).*larger than the available KV cache", _too_long),
    (r"No available memory for the cache blocks", _no_room),
    (r"[Aa]ttention heads \((\d+)\) must be divisible by tensor parallel size \((\d+)\)", _heads),
    (r"(?:CUDA|HIP) out of memory[^\n]*", _full),
)
"""Messages of vLLM 0.32 and torch 2.13 that have a setting of ours behind them."""
