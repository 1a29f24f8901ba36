"""`python -m icr.work.torchrun ARGS`: torchrun, ended together with its parent; and the command that starts it."""

from __future__ import annotations

import os
import shlex
import socket
import sys
from typing import TYPE_CHECKING

from icr.base.process import die_with_parent

if TYPE_CHECKING:
    from icr.config.schema import Train

ON_CPU = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
"""Environment of a training on a CPU: the C library keeps the memory of large tensors for the next step's. To give it
back and take it again was a sixth of the time."""


def start_command(train: Train, processes: int) -> list[str]:
    """The beginning of a training's command on this machine, or by `train.launcher` on several.

    Args:
        processes: on each node.
    """
    if train.nodes == 1 and processes == 1:
        return [sys.executable]
    where = _rendezvous(train.nodes) if train.nodes > 1 else ["--standalone"]
    return [*shlex.split(train.launcher), *torchrun(processes, where)]


def torchrun(processes: int, where: list[str]) -> list[str]:
    """`where`: how the processes of several nodes find each other."""
    return [sys.executable, "-P", "-m", "icr.work.torchrun", *where, f"--nproc-per-node={processes}"]


def _rendezvous(nodes: int) -> list[str]:
    """torchrun's arguments for several nodes: they meet at a free port of this one."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    here = f"{socket.gethostname()}:{port}"
    return [f"--nnodes={nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={here}", f"--rdzv-id=icr-{port}"]


if __name__ == "__main__":
    die_with_parent()
    os.environ["PYTHONSAFEPATH"] = "1"  # of the ranks, also where a launcher brings no environment
    from torch.distributed.run import main

    main(sys.argv[1:])
