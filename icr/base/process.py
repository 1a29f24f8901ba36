"""What all worker processes share: their environment, how they end, and how they report that."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from icr.base.errors import UserError, explain_os_error
from icr.base.progress import EventFile

PR_SET_PDEATHSIG = 1
SOURCES = Path(__file__).resolve().parents[2]
"""The folder that has the package `icr`."""


WORKER_ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    # vLLM forks its engine unless CUDA is initialised, and a look for GPUs before that forbids the fork
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONSAFEPATH": "1",
}
"""Environment of every worker: no telemetry is sent, and the user's folders that are named like our packages
(`eval`, `prompts`) are not taken for them."""
UNLESS_SET = {"VLLM_LOGGING_LEVEL": "WARNING", "GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}
"""Unless the user has set them. OpenMP's threads wait for each other at the end of every small loop. On a core that
another process wants they must sleep there: spinning, as is the default, took four times as long beside one busy
process, and waiting without any spin samples more slowly on a machine that is free."""


def make_environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a worker; `more` is its own."""
    return {**UNLESS_SET, **os.environ, **WORKER_ENVIRONMENT, **(more or {})}


def forget_current_folder() -> None:
    """Take the current folder, which `python -m` puts first, out of where modules are searched, as `python -P` does.

    So the user's `eval/`, `prompts/` or `loops.py` there are not taken for ours. It stays if icr itself is there.
    Custom classes are still found in it (`icr.base.plugins`).
    """
    here = os.getcwd()
    if not sys.flags.safe_path and sys.path and sys.path[0] in ("", here) and Path(here) != SOURCES:
        del sys.path[0]


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends, so that a killed run leaves no writer behind."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # the parent may have ended between our start and the call above
    if os.getppid() != parent:
        sys.exit(1)


def reported(work: Callable[[], Mapping[str, object]], events: EventFile) -> int:
    """Do a worker's work and send how it ended; returns the exit status."""
    try:
        events.send(event="done", counts=work())
        return 0
    except UserError as error:
        events.send(event="error", kind="user", what=str(error.what), where=error.where, do=error.do)
    except OSError as error:
        known = explain_os_error(error)
        if known is None:
            traceback.print_exc()
        events.send(event="error", kind="user" if known else "crash", text=str(known or error))
    except Exception as error:  # the process ends here: the log has the traceback, the controller the reason
        traceback.print_exc()
        events.send(event="error", kind="crash", text=f"{type(error).__name__}: {error}")
    return 1
