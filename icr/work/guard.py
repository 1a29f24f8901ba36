"""`python guard.py PIPE DRIVER CHANNEL COMMAND…`: starts a worker and ends it, with all its descendants, when due.

The guard is the parent of the worker and the foster parent of every process that the worker leaves behind (an engine in
its own process or even session). It ends them all as soon as the driver is gone, however that ended, and as soon
as the worker is gone; then it ends as the worker did.

The driver is gone when nobody holds the writing end of the pipe PIPE any more, or when the guard's parent is no longer
DRIVER. This file runs by its path in an isolated interpreter and imports only small modules, so that a guard is up
within milliseconds and stays small.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import select
import signal
import sys
import threading
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
LOOK_SECONDS = 1.0
"""How often the guard looks who its parent is: a process that the driver forked may hold the pipe open after it."""


def main() -> None:
    pipe, driver, channel = (int(text) for text in sys.argv[1:4])
    command = sys.argv[4:]
    set_process_option(PR_SET_CHILD_SUBREAPER, 1)
    guard = os.getpid()
    worker = os.fork()
    if worker == 0:
        os.close(pipe)
        set_process_option(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:  # the guard may have ended between the fork and the line above
            os._exit(1)
        os.execv(command[0], command)
    os.close(channel)  # so that the driver sees its end as soon as the worker ends
    threading.Thread(target=watch_driver, args=(pipe, driver), daemon=True).start()
    pid = status = 0
    while pid != worker:  # orphans of the worker's are reaped on the way
        pid, status = os.wait()
    end_descendants()
    end_like(status)


def set_process_option(option: int, value: int) -> None:
    """prctl(2), which only Linux has. Elsewhere the driver's signal to the process group has to do."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value)


def watch_driver(pipe: int, driver: int) -> None:
    """Wait for the driver's end; then end everything, this process too."""
    while os.getppid() == driver and not select.select([pipe], [], [], LOOK_SECONDS)[0]:
        pass
    end_descendants()
    os.killpg(0, signal.SIGKILL)


def end_descendants() -> None:
    """SIGKILL all descendants until none is left: one may have started another meanwhile.

    A look at /proc can miss a process whose parent ends at that moment. That this process has no child any more is
    certain, and as orphans become its children, it then has no descendant either.
    """
    if sys.platform != "linux":
        return
    pause = 0.005
    while True:
        for pid in find_descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(pause)
        pause = min(2 * pause, 0.5)  # one that hangs in a kernel driver ends when that releases it


def find_descendants(ancestor: int) -> list[int]:
    """Process ids of living descendants."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                state, parent = file.read().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue  # it ended between the list and the look
        if state not in "ZX":
            children.setdefault(int(parent), []).append(int(name))
    found: list[int] = []
    following = [ancestor]
    while following:
        below = children.get(following.pop(), [])
        found += below
        following += below
    return found


def end_like(status: int) -> None:
    """End with the worker's exit code or by the worker's signal, without a second core dump."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError):  # SIGKILL needs no reset
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main()
