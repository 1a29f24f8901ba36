"""A job of translation in a worker process, one at a time in its folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from icr.base.files import write_text
from icr.base.lock import RunLock
from icr.work.display import StageDisplay
from icr.work.launch import Worker, run_workers

if TYPE_CHECKING:
    from rich.console import Console

    from prompts.translator import TranslatorJob


def run_translation(job: TranslatorJob, module: str, console: Console, keep_fds: Sequence[int] = ()) -> None:
    """Run a job to its end, or go on with it.

    Args:
        module: of the worker, which takes the job's file and the file for its events.
        keep_fds: further locks that the worker holds.

    Raises:
        UserError: as the job's translator; the folder is in use.
        StageFailed: the worker failed.
    """
    lock = RunLock(job.work / ".lock")
    try:
        path, events, log = (job.work / name for name in ("job.json", "events.jsonl", "log.txt"))
        write_text(path, job.model_dump_json(indent=2))
        with StageDisplay(console, "translate") as display:
            argv = [sys.executable, "-m", module, str(path), str(events)]
            run_workers([Worker(argv, events, log)], display, [lock.fd, *keep_fds])
    finally:
        lock.release()
