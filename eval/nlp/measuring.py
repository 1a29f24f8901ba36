"""Worker tasks: lm-eval plans what there is to measure, and measures it.

lm-eval is used through its Python API: `lm_eval.evaluate` on a model that is loaded once. `lm_eval.simple_evaluate`
gives the same values, and looks the whole machine over (`pip list`, `lscpu`) each time: four seconds a task.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, ClassVar, TypedDict

import pyarrow as pa

from eval.nlp.result import Item, TaskRecord, read_result
from eval.nlp.tasks import SEED, Catalogue, NlpTask, Plan, plan_tasks
from icr.base.errors import UserError
from icr.base.progress import Reporter
from icr.config.schema import Nlp
from icr.rows import make_schema
from icr.work.pool import Task
from icr.work.resident import Resident

if TYPE_CHECKING:
    from lm_eval.api.task import Task as LmTask

    from eval.nlp.models import Scorer

BOOTSTRAPS = 1000
"""For the standard errors of metrics that are not means."""
LANGUAGES = pa.schema([("lang", pa.string())])


class Planned(TypedDict):
    """A task, or a benchmark that has none in a language."""

    task: str | None
    """None: lm-eval has none."""
    benchmark: str
    language: str | None
    """None: of a task without one."""
    few_shot: int | None
    """None: what the task's own file says."""
    group: str | None
    """See `NlpTask`."""


PLANNED = make_schema(Planned)
ITEMS_EACH = pa.schema([("task", pa.string()), ("items", pa.int64())])
MEASURED = pa.schema([("record", pa.string()), ("items", pa.string())])  # JSON of the record, of rows of ITEMS


class PlanTask(Task):
    """In: LANGUAGES. Out: PLANNED, in the order of the config."""

    name: ClassVar[str] = "nlp-plan"
    lane: ClassVar[str] = "nlp"

    settings: Nlp


def plan(state: Resident, task: PlanTask, table: pa.Table, reporter: Reporter) -> pa.Table:
    """Raises UserError for an unknown task, or none at all for these languages."""
    found = plan_tasks(task.settings, table["lang"].to_pylist(), _catalogue(state, task.settings))
    rows = [_dump(wanted) for wanted in found.tasks]
    for lang, benchmarks in found.without.items():
        rows += [
            {"task": None, "benchmark": name, "language": lang, "few_shot": None, "group": None} for name in benchmarks
        ]
    return pa.Table.from_pylist(rows, schema=PLANNED)


class FetchTask(Task):
    """In: rows of PLANNED. Out: ITEMS_EACH. What is missing is said before a model is loaded and hours have passed."""

    name: ClassVar[str] = "nlp-data"
    lane: ClassVar[str] = "nlp"

    settings: Nlp


def fetch(state: Resident, task: FetchTask, table: pa.Table, reporter: Reporter) -> pa.Table:
    """Raises UserError for data that cannot be loaded, and for a task that fails by itself."""
    rows = []
    for done, wanted in enumerate(read_plan(table).tasks):
        ready = _ready(state, task.settings, wanted)
        given = ready.get_config("num_fewshot")
        if wanted.few_shot not in (None, given):
            reporter.note(
                f"{wanted.name}: its file sets {given} few-shot examples, not the {wanted.few_shot} of the config"
            )
        count = len(ready.eval_docs)
        rows.append({"task": wanted.name, "items": min(count, task.settings.limit or count)})
        reporter.progress(done + 1, table.num_rows)
    return pa.Table.from_pylist(rows, schema=ITEMS_EACH)


class MeasureTask(Task):
    """In: rows of PLANNED. Out: MEASURED."""

    name: ClassVar[str] = "nlp"
    lane: ClassVar[str] = "nlp"

    settings: Nlp
    model: str
    gpu_memory: float = 0.9
    """Share of a GPU's memory for vLLM."""


def measure(state: Resident, task: MeasureTask, table: pa.Table, reporter: Reporter) -> pa.Table:
    """Raises UserError when the model cannot be loaded, and when a GPU's memory is full."""
    from eval.nlp.models import Scorer

    rows = []
    for wanted in read_plan(table).tasks:
        ready = _ready(state, task.settings, wanted)
        scorer = state.keep(f"nlp model {task.model}", lambda: Scorer(task.model, task.settings, task.gpu_memory))
        scorer.on_progress(reporter.progress)
        record, items = _evaluate(scorer, wanted, ready, task.settings)
        if record["too_long"]:
            reporter.note(
                f"{wanted.name}: {record['too_long']} texts are too long for the model; their beginnings were cut off"
            )
        rows.append({"record": json.dumps(record), "items": json.dumps(items)})
    return pa.Table.from_pylist(rows, schema=MEASURED)


def tabulate(tasks: list[NlpTask]) -> pa.Table:
    """Rows of PLANNED."""
    return pa.Table.from_pylist([_dump(task) for task in tasks], schema=PLANNED)


def read_measured(table: pa.Table) -> tuple[TaskRecord, list[Item]]:
    """The record of a task, and its items."""
    (row,) = table.to_pylist()
    return json.loads(row["record"]), json.loads(row["items"])


def read_plan(table: pa.Table) -> Plan:
    """Rows of PLANNED as what they were made from."""
    found = Plan([])
    rows: list[Planned] = table.to_pylist()
    for row in rows:
        if row["task"] is not None:
            found.tasks.append(NlpTask(row["task"], row["benchmark"], row["language"], row["few_shot"], row["group"]))
        elif row["language"] is not None:
            found.without.setdefault(row["language"], []).append(row["benchmark"])
    return found


def _dump(task: NlpTask) -> Planned:
    return {
        "task": task.name,
        "benchmark": task.benchmark,
        "language": task.language,
        "few_shot": task.few_shot,
        "group": task.group,
    }


def _catalogue(state: Resident, settings: Nlp) -> Catalogue:
    return state.keep(f"nlp catalogue {settings.include_path}", lambda: Catalogue(settings.include_path))


def _ready(state: Resident, settings: Nlp, task: NlpTask) -> LmTask:
    catalogue = _catalogue(state, settings)
    return state.keep(f"nlp task {task.name} {task.few_shot}", lambda: catalogue.load(task))


def _evaluate(scorer: Scorer, task: NlpTask, ready: LmTask, settings: Nlp) -> tuple[TaskRecord, list[Item]]:
    """One task: its record, and the values of its items."""
    import torch
    from lm_eval import evaluate

    began, too_long = time.monotonic(), scorer.too_long
    torch.manual_seed(SEED)
    try:
        result = evaluate(
            scorer.lm,
            {"tasks": {task.name: ready}},
            limit=settings.limit,
            bootstrap_iters=BOOTSTRAPS,
            log_samples=True,
            apply_chat_template=settings.chat_template,
            fewshot_as_multiturn=settings.chat_template,
        )
    except torch.OutOfMemoryError as error:
        raise UserError(
            "the GPU's memory is full",
            where=f"task {task.name}",
            do="set judge.nlp.batch_size to a small number; finished tasks are kept",
        ) from error
    found, items = read_result(result, task.name)
    record: TaskRecord = {
        **found,
        "benchmark": task.benchmark,
        "language": task.language,
        "too_long": scorer.too_long - too_long,
        "seconds": round(time.monotonic() - began, 1),
        "backend": scorer.backend,
        "dtype": scorer.dtype,
    }
    return record, items
