"""Ranks of a training that are forks of a process which has imported what they need: one of its own takes ten seconds.

`python -m tests.helpers.ranks` reads lines: a training to start, whose process id it answers, or a process id to wait
for, whose exit code it answers. It has one thread, as others do not survive a fork, and ends with its stdin.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ranks:
    """A training under way."""

    pid: int

    def wait(self, timeout: float) -> int:
        """The exit code: 0 if every rank's is. Ranks end by themselves, and pytest has a timeout."""
        return _ask({"pid": self.pid})


def fork_ranks(spec: Path, processes: int, log: Path) -> Ranks:
    """Start `loops.train` with a specification on so many ranks of this machine."""
    return Ranks(_ask({"spec": str(spec), "processes": processes, "log": str(log)}))


def _ask(message: dict[str, Any]) -> int:
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(json.dumps(message) + "\n")
    server.stdin.flush()
    return int(server.stdout.readline())


@cache
def _server() -> subprocess.Popen[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.ranks"], cwd=ROOT, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def _launch(message: dict[str, Any]) -> int:
    """Exit code of a training: when a rank fails, the others are ended, as torchrun does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [_fork(message, rank, port) for rank in range(message["processes"])]
    for _ in ranks:
        if code := os.waitstatus_to_exitcode(os.wait()[1]):
            for rank in ranks:
                os.kill(rank, signal.SIGKILL)
            return abs(code)
    return 0


def _fork(message: dict[str, Any], rank: int, port: int) -> int:
    if child := os.fork():
        return child
    count = message["processes"]
    values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ.update({"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in values.items()}})
    log = os.open(message["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["loops.train", message["spec"]]
    code = 1
    try:
        from loops.train import main

        code = main()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _serve() -> NoReturn:
    from icr.config.schema import Train
    from loops.process import prepare_process

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer
    os.environ["RANK"] = "0"  # that none is made up
    prepare_process(Train(deepspeed="zero2"))
    del os.environ["RANK"]
    import torch

    torch.set_num_threads(1)
    for line in sys.stdin:
        message = json.loads(line)
        if "pid" in message:
            answer = os.waitstatus_to_exitcode(os.waitpid(message["pid"], 0)[1])
        elif not (answer := os.fork()):
            os._exit(_launch(message))
        print(answer, file=answers, flush=True)
    os._exit(0)


if __name__ == "__main__":
    _serve()
