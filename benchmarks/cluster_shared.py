"""What the parts of `benchmarks.cluster` share: its processes, and what has to hold."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress

import psutil

from tests.helpers.ray_nodes import find

WAIT = 600.0
"""No wait here is longer."""
Figures = dict[str, float]


def environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "ICR_RATES": "none", "ICR_JUDGE_CACHE": "none"}


def find_engines() -> list[psutil.Process]:
    """Workers, without their guards."""
    return [worker for host in find("ray::Host") for worker in find_workers(host)]


def find_workers(above: psutil.Process) -> list[psutil.Process]:
    """The workers below a process, without their guards."""
    with suppress(psutil.NoSuchProcess):
        return [process for process in above.children(recursive=True) if process.is_running() and is_worker(process)]
    return []


def is_worker(process: psutil.Process) -> bool:
    try:
        return not any(part.endswith("guard.py") for part in process.cmdline())
    except psutil.NoSuchProcess:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        check(time.monotonic() < deadline, f"waited for {WAIT:.0f} s in vain")
        time.sleep(0.02)


def check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise SystemExit(f"error: {otherwise}")
