"""`python -m tests.helpers.dummy_worker CHANNEL DEPTH`: a worker that sleeps, and fails in every way a worker can.

Each row of the input has `number` and `deed`, what happens when the row's turn comes. A deed that ends in "-once" is
done by the first process alone that comes to it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import ClassVar

import pyarrow as pa

from icr.base.errors import UserError
from icr.base.progress import Reporter
from icr.work.pool import Shard, Task
from icr.work.serve import serve


class Sleep(Task):
    """Sleep `seconds` a row; the first worker to start `slow` times as long."""

    name: ClassVar[str] = "sleep"
    lane: ClassVar[str] = "engine"
    unit: ClassVar[tuple[str, ...]] = ("group",)
    folder: str
    """Where the marks of deeds that are done once, and the processes' ids, are kept."""
    seconds: float = 0.0
    slow: float = 1.0
    counted: bool = False
    """Whether a file began-NUMBER-… is left each time that a shard is begun."""


class Echo(Task):
    """The table itself."""

    name: ClassVar[str] = "echo"
    lane: ClassVar[str] = "engine"


class Devices(Task):
    """The GPUs that the worker sees, and the folder that its model comes from."""

    name: ClassVar[str] = "devices"
    lane: ClassVar[str] = "engine"
    model: str = ""


class Write(Task):
    """`samples` responses of `tokens` tokens to each row, at `rate` responses a second."""

    name: ClassVar[str] = "write"
    lane: ClassVar[str] = "engine"
    samples: int
    tokens: int
    rate: float


class Dummy:
    """The state of a worker."""

    def __init__(self) -> None:
        self.is_broken = False
        self.rests = 0
        self.slow: float | None = None

    def rest(self) -> None:
        self.rests += 1


def sleep(state: Dummy, task: Sleep, table: pa.Table, reporter: Reporter) -> pa.Table:
    folder = Path(task.folder)
    if state.slow is None:
        state.slow = task.slow if claim(folder / "slow") else 1.0
    started = time.time()
    reporter.note("the engine is a dummy")
    rows = table.to_pylist()
    if task.counted:
        (folder / f"began-{rows[0]['number']}-{os.getpid()}-{time.time_ns()}").touch()
    for done, row in enumerate(rows):
        reporter.status(f"at {row['number']}")
        reporter.progress(done, len(rows), 10 * done)
        deed, _, once = row["deed"].partition("-")
        if deed and (not once or claim(folder / f"{deed}-{row['number']}")):
            DEEDS[deed](folder)
            state.is_broken |= deed == "break"
        if state.is_broken:
            raise RuntimeError("the engine is broken")
        time.sleep(task.seconds * state.slow)
    reporter.progress(len(rows), len(rows), 10 * len(rows))
    spent = {"pid": os.getpid(), "started": started, "ended": time.time(), "rests": state.rests}
    return pa.Table.from_pylist([{"number": row["number"], "double": 2 * row["number"], **spent} for row in rows])


def echo(state: Dummy, task: Echo, table: pa.Table, reporter: Reporter) -> pa.Table:
    return table


def devices(state: Dummy, task: Devices, table: pa.Table, reporter: Reporter) -> pa.Table:
    return pa.table({"devices": [os.environ.get("CUDA_VISIBLE_DEVICES")], "model": [task.model]})


def write(state: Dummy, task: Write, table: pa.Table, reporter: Reporter) -> pa.Table:
    """Tables of the size that sampling has: a text and its token ids each."""
    rows, random = [], Random(table["number"][0].as_py())
    for done, number in enumerate(table["number"].to_pylist()):
        reporter.progress(done, table.num_rows, done * task.samples * task.tokens)
        for sample in range(task.samples):
            ids = random.choices(range(128_000), k=task.tokens)
            text = "".join(f"{i % 1000:03d} " for i in ids)[: 4 * task.tokens]
            rows.append({"number": number, "sample": sample, "response": text, "token_ids": ids})
        time.sleep(task.samples / task.rate)
    return pa.Table.from_pylist(rows)


def claim(path: Path) -> bool:
    """Whether this process is the first to come here."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def stop(folder: Path) -> None:
    """Stand still, as a process does that waits for a device for ever."""
    os.kill(os.getpid(), signal.SIGSTOP)


def kill(folder: Path) -> None:
    print("about to be killed", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def fail(folder: Path) -> None:
    raise ValueError("this row cannot be read")


def refuse(folder: Path) -> None:
    raise UserError("the prompt is too long", where="prompt p7, language es", do="shorten it")


def leave(folder: Path) -> None:
    raise SystemExit(3)


def chatter(folder: Path) -> None:
    print("x" * 100_000)
    print("y" * 100_000, file=sys.stderr)
    os.write(1, b"\x00\xff not text" * 1000)


def spawn(folder: Path) -> None:
    """Start a child in this process group and one in a session of its own, as engines and their servers do."""
    for new_session in (False, True):
        child = subprocess.Popen(["sleep", "600"], start_new_session=new_session)
        (folder / f"child-{child.pid}").touch()


def hang(folder: Path) -> None:
    time.sleep(600)


DEEDS: dict[str, Callable[[Path], None]] = {
    "stop": stop,
    "kill": kill,
    "fail": fail,
    "refuse": refuse,
    "leave": leave,
    "chatter": chatter,
    "spawn": spawn,
    "hang": hang,
    "break": lambda folder: None,
}


def make_shards(count: int, rows: int = 1, deeds: dict[int, str] | None = None, group: int = 1) -> list[Shard]:
    """`count` shards of `rows` rows, numbered through, `group` rows a unit; `deeds` by number."""
    shards = []
    for index in range(count):
        numbers = range(index * rows, (index + 1) * rows)
        data = [{"number": n, "group": f"g{n // group}", "deed": (deeds or {}).get(n, "")} for n in numbers]
        shards.append(Shard(f"{index:05d}", pa.Table.from_pylist(data)))
    return shards


if __name__ == "__main__":
    serve(
        {"sleep": (Sleep, sleep), "echo": (Echo, echo), "devices": (Devices, devices), "write": (Write, write)}, Dummy()
    )
