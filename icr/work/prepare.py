"""Worker task: every model becomes a folder that transformers and vLLM load."""

from __future__ import annotations

from typing import ClassVar

import pyarrow as pa

from icr.base.progress import Reporter
from icr.work.pool import Task
from icr.work.resident import Resident


class PrepareTask(Task):
    """In: `model` (hub id, folder or .gguf). Out: `folder`."""

    name: ClassVar[str] = "prepare"
    lane: ClassVar[str] = "single"

    chat_template: str | None


def prepare(state: Resident, task: PrepareTask, table: pa.Table, reporter: Reporter) -> pa.Table:
    from icr.engines.folders import materialise

    folders = []
    for done, model in enumerate(table["model"].to_pylist()):
        reporter.progress(done, table.num_rows)
        folders.append(materialise(model, task.chat_template))
    return pa.table({"folder": folders})
