"""NLP benchmarks (Table 4): lm-eval's tasks on one model, each kept as soon as it is measured.

What is written, in `out`/nlp: TASK.json and TASK.parquet for every task (its value and every item's), and summary.json
when all are there. `eval.nlp.table` puts the summaries of several rounds side by side.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict
from urllib.parse import quote

import pyarrow as pa

from eval.folders import summary_path
from eval.judges.asking import PATIENT
from eval.nlp.average import average, averaged_items
from eval.nlp.measuring import LANGUAGES, FetchTask, MeasureTask, PlanTask, read_measured, read_plan, tabulate
from eval.nlp.pooling import pool
from eval.nlp.result import ITEMS, Measure, TaskRecord
from eval.nlp.tasks import NlpTask, Plan, check_settings
from icr.base.errors import UserError
from icr.base.files import read_json, read_rows, write_json, write_rows
from icr.config.schema import Nlp
from icr.work.pool import Shard

if TYPE_CHECKING:
    from icr.work.machine import Machine


class BenchmarkMean(Measure):
    """Over the languages that the benchmark has a task in."""

    languages: list[str]


class NlpSummary(TypedDict):
    """nlp/summary.json. Values are as lm-eval gives them, shares of 1 for accuracies."""

    model: str
    backend: list[str]
    limit: int | None
    lm_eval: str
    without: dict[str, list[str]]
    """Language → benchmarks that have no task in it."""
    tasks: list[TaskRecord]
    benchmarks: dict[str, BenchmarkMean]
    fingerprint: NotRequired[str]


class Terms(TypedDict):
    """What decides every value. The batch size does not belong to it: it may shrink where memory was short."""

    model: str
    lm_eval: str
    limit: int | None
    backend: str
    own_tasks: list[list[str]] | None
    chat_template: NotRequired[bool]
    """Only where it is true: it came later."""


def run_nlp(machine: Machine, settings: Nlp, model: str, languages: Sequence[str], out: Path) -> NlpSummary:
    """Measure what `out`/nlp does not hold yet for this model under these settings.

    Args:
        model: a folder or hub id.

    Raises:
        UserError: lm-eval is not installed, unknown task, data or model cannot be loaded.
    """
    check_settings(settings, languages)
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("lm-eval is not installed", where="judge: nlp", do="pip install lm-eval")
    folder = out / "nlp"
    terms = _terms(settings, model)
    wanted = [terms, settings.model_dump(include={"tasks", "few_shot"}), list(languages)]
    whole = _hash(wanted)
    kept = read_summary(out)
    if kept is not None and kept.get("fingerprint") == whole:
        return kept
    summary_path(out, "nlp").unlink(missing_ok=True)  # it is of other terms
    try:
        plan = _plan(machine, settings, languages)
        for lang, benchmarks in plan.without.items():
            machine.note(f"{', '.join(benchmarks)}: no task for {lang}, not measured")
        todo = [task for task in plan.tasks if _kept(folder, task, terms) is None]
        if todo:
            _measure(machine, todo, settings, model, folder, terms)
    finally:
        machine.pool.stop("nlp")  # with the model that lm-eval has loaded
    rows = _pooled(out, [(task, row) for task in plan.tasks if (row := _kept(folder, task, terms))])
    summary: NlpSummary = {**_summary(rows, plan, settings, model, out), "fingerprint": whole}
    write_json(summary_path(out, "nlp"), summary)
    return summary


def _pooled(out: Path, measured: Sequence[tuple[NlpTask, TaskRecord]]) -> list[TaskRecord]:
    """The records of what is shown: a benchmark that lm-eval cuts into subjects has one a language, with its items."""
    groups: dict[str, list[TaskRecord]] = {}
    for task, row in measured:
        groups.setdefault(task.group or task.name, []).append(row)
    found = []
    grouped = {task.group for task, _ in measured}
    for name, rows in groups.items():
        if name not in grouped:
            found += rows
            continue
        whole, items = pool(name, rows, [read_rows(items_path(out, row["task"])) for row in rows])
        write_rows(items_path(out, name), items, ITEMS)
        found.append(whole)
    return found


def _plan(machine: Machine, settings: Nlp, languages: Sequence[str]) -> Plan:
    languages_table = pa.table({"lang": list(languages)}, schema=LANGUAGES)
    return read_plan(machine.run(PlanTask(settings=settings), languages_table, "NLP plan"))


def read_summary(out: Path) -> NlpSummary | None:
    """What `run_nlp` has written; None when there is nothing yet."""
    path = summary_path(out, "nlp")
    summary: NlpSummary | None = read_json(path) if path.is_file() else None
    return summary


def items_path(out: Path, task: str) -> Path:
    """Rows of ITEMS."""
    return _path(out / "nlp", task, "parquet")


def _path(folder: Path, task: str, suffix: str) -> Path:
    return folder / f"{quote(task, safe='')}.{suffix}"


def _kept(folder: Path, task: NlpTask, terms: Terms) -> TaskRecord | None:
    """What an earlier command has measured of this task, on the same terms."""
    path = _path(folder, task.name, "json")
    if not path.is_file():
        return None
    found = read_json(path)
    if found.pop("fingerprint", "") != _fingerprint(task, terms):
        return None
    # the same task may since have been named otherwise in the config
    record: TaskRecord = found | {"benchmark": task.benchmark, "language": task.language}
    return record


def _fingerprint(task: NlpTask, terms: Terms) -> str:
    return _hash([terms, task.name, task.few_shot])


def _terms(settings: Nlp, model: str) -> Terms:
    terms: Terms = {
        "model": model_fingerprint(model),
        "lm_eval": importlib.metadata.version("lm_eval"),
        "limit": settings.limit,
        "backend": settings.backend,
        "own_tasks": _files(Path(settings.include_path), "*") if settings.include_path else None,
    }
    return {**terms, "chat_template": True} if settings.chat_template else terms


def model_fingerprint(model: str) -> str:
    """A value that is equal for two folders with the same model, wherever they are; for a hub id, the id.

    All of the weights are read, which takes about ten seconds for 16 GB: a round at a small learning rate leaves most
    of the bf16 weights as they were, so no part of a file could speak for the rest.
    """
    folder = Path(model)
    if not folder.is_dir():
        return model
    return _hash([_files(folder, name) for name in ("config.json", "tokenizer*", "*.safetensors")])


def _files(folder: Path, pattern: str) -> list[list[str]]:
    """Name and content of the files that match."""
    found = []
    for file in sorted(folder.rglob(pattern)):
        if file.is_file() and "__pycache__" not in file.parts:
            with open(file, "rb") as handle:
                digest = hashlib.file_digest(handle, "sha256").hexdigest()
            found.append([file.relative_to(folder).as_posix(), digest])
    return found


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _measure(machine: Machine, todo: Sequence[NlpTask], settings: Nlp, model: str, folder: Path, terms: Terms) -> None:
    """Have tasks measured, one at a time on each worker, and write each when it is done."""
    tables = {task.name: tabulate([task]) for task in todo}
    sizes = machine.run(FetchTask(settings=settings), pa.concat_tables(tables.values()), "NLP data").to_pylist()
    shards = [Shard(quote(row["task"], safe=""), tables[row["task"]], row["items"]) for row in sizes]
    named = {quote(task.name, safe=""): task for task in todo}
    asked = MeasureTask(settings=settings, model=model, gpu_memory=machine.gpu_memory)
    with closing(machine.work(asked, shards, "NLP tasks", PATIENT)) as results:
        for shard, table in results:
            task = named[shard.name]
            record, items = read_measured(table)
            write_rows(_path(folder, task.name, "parquet"), items, ITEMS)
            write_json(_path(folder, task.name, "json"), {**record, "fingerprint": _fingerprint(task, terms)})


def _summary(rows: Sequence[TaskRecord], plan: Plan, settings: Nlp, model: str, out: Path) -> NlpSummary:
    benchmarks: dict[str, list[TaskRecord]] = {}
    for row in rows:
        benchmarks.setdefault(row["benchmark"], []).append(row)
    return {
        "model": model,
        "backend": sorted({row["backend"] for row in rows}),
        "limit": settings.limit,
        "lm_eval": importlib.metadata.version("lm_eval"),
        "without": plan.without,
        "tasks": list(rows),
        "benchmarks": {
            name: {
                **average(of, [averaged_items(items_path(out, r["task"]), r["metric"], r["value"]) for r in of]),
                "languages": [row["language"] for row in of if row["language"]],
            }
            for name, of in benchmarks.items()
        },
    }
