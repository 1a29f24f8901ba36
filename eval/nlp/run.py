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
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pyarrow as pa

from eval.folders import summary_path
from eval.judges.asking import PATIENT
from eval.nlp.measuring import LANGUAGES, FetchTask, MeasureTask, PlanTask, read_measured, tabulate
from eval.nlp.result import ITEMS, average
from eval.nlp.tasks import NlpTask, Plan, check_settings
from icr.base.errors import UserError
from icr.base.files import read_json, write_json, write_rows
from icr.config.schema import Nlp
from icr.work.pool import Shard

if TYPE_CHECKING:
    from icr.work.machine import Machine

Row = dict[str, Any]


def run_nlp(machine: Machine, settings: Nlp, model: str, languages: Sequence[str], out: Path) -> Row:
    """Measure what `out`/nlp does not hold yet for this model under these settings.

    Args:
        model: a folder or hub id.

    Returns:
        The summary: {"model", "backend", "limit", "lm_eval", "without": {LANG: [benchmark]}, "tasks": [{task,
        benchmark, language, metric, value, se, n, of, few_shot, version, too_long, higher_is_better, metrics, seconds,
        backend, dtype}], "benchmarks": {NAME: {value, se, languages}}}. Values are as lm-eval gives them, shares of 1
        for accuracies.

    Raises:
        UserError: lm-eval is not installed, an unknown task, data that cannot be had, a model that cannot be loaded.
    """
    check_settings(settings)
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("lm-eval is not installed", where="judge: nlp", do="pip install 'icr[nlp]'")
    folder = out / "nlp"
    terms = _terms(settings, model)
    wanted = [terms, settings.model_dump(include={"tasks", "few_shot"}), list(languages)]
    whole = _hash(wanted)
    summary = read_summary(out)
    if summary.get("fingerprint") == whole:
        return summary
    summary_path(out, "nlp").unlink(missing_ok=True)  # it is of other terms
    try:
        plan = _plan(machine, settings, languages)
        for lang, benchmarks in plan.without.items():
            machine.note(f"no task for {lang} in {', '.join(benchmarks)}: not measured there")
        todo = [task for task in plan.tasks if _kept(folder, task, terms) is None]
        if todo:
            _measure(machine, todo, settings, model, folder, terms)
    finally:
        machine.pool.stop("nlp")  # with the model that lm-eval has loaded
    rows = [row for task in plan.tasks if (row := _kept(folder, task, terms))]
    summary = _summary(rows, plan, settings, model) | {"fingerprint": whole}
    write_json(summary_path(out, "nlp"), summary)
    return summary


def _plan(machine: Machine, settings: Nlp, languages: Sequence[str]) -> Plan:
    languages_table = pa.table({"lang": list(languages)}, schema=LANGUAGES)
    plan = Plan([])
    for row in machine.run(PlanTask(settings=settings), languages_table, "NLP plan").to_pylist():
        if row["there"]:
            plan.tasks.append(NlpTask(row["task"], row["benchmark"], row["language"], row["few_shot"]))
        else:
            plan.without.setdefault(row["language"], []).append(row["benchmark"])
    return plan


def read_summary(out: Path) -> Row:
    """What `run_nlp` has written; {} when there is nothing yet."""
    path = summary_path(out, "nlp")
    summary: Row = read_json(path) if path.is_file() else {}
    return summary


def items_path(out: Path, task: str) -> Path:
    """Rows of ITEMS."""
    return _path(out / "nlp", task, "parquet")


def _path(folder: Path, task: str, suffix: str) -> Path:
    return folder / f"{quote(task, safe='')}.{suffix}"


def _kept(folder: Path, task: NlpTask, terms: Row) -> Row | None:
    """What an earlier command has measured of this task, on the same terms."""
    path = _path(folder, task.name, "json")
    row: Row = read_json(path) if path.is_file() else {}
    if row.get("fingerprint") != _fingerprint(task, terms):
        return None
    # the same task may since have been named otherwise in the config
    return row | {"benchmark": task.benchmark, "language": task.language}


def _fingerprint(task: NlpTask, terms: Row) -> str:
    return _hash([terms, task.name, task.few_shot])


def _terms(settings: Nlp, model: str) -> Row:
    """What decides every value. The batch size does not belong to it: it may shrink where memory was short."""
    return {
        "model": model_fingerprint(model),
        "lm_eval": importlib.metadata.version("lm_eval"),
        "limit": settings.limit,
        "backend": settings.backend,
        "own_tasks": _files(Path(settings.include_path), "*") if settings.include_path else None,
    }


def model_fingerprint(model: str) -> str:
    """Says whether two folders hold the same model, wherever they lie; a hub id stands for itself.

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


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _measure(machine: Machine, todo: Sequence[NlpTask], settings: Nlp, model: str, folder: Path, terms: Row) -> None:
    """Have tasks measured, one at a time on each worker, and write each when it is done."""
    tables = {task.name: tabulate([task]) for task in todo}
    sizes = machine.run(FetchTask(settings=settings), pa.concat_tables(tables.values()), "NLP data").to_pylist()
    shards = [Shard(quote(row["task"], safe=""), tables[row["task"]], row["items"]) for row in sizes]
    named = {quote(task.name, safe=""): task for task in todo}
    with closing(machine.work(MeasureTask(settings=settings, model=model), shards, "NLP tasks", PATIENT)) as results:
        for shard, table in results:
            task = named[shard.name]
            row, items = read_measured(table)
            write_rows(_path(folder, task.name, "parquet"), items, ITEMS)
            write_json(_path(folder, task.name, "json"), row | {"fingerprint": _fingerprint(task, terms)})


def _summary(rows: Sequence[Row], plan: Plan, settings: Nlp, model: str) -> Row:
    benchmarks: dict[str, list[Row]] = {}
    for row in rows:
        benchmarks.setdefault(row["benchmark"], []).append(row)
    return {
        "model": model,
        "backend": sorted({row["backend"] for row in rows}),
        "limit": settings.limit,
        "lm_eval": importlib.metadata.version("lm_eval"),
        "without": plan.without,
        "tasks": [{key: value for key, value in row.items() if key != "fingerprint"} for row in rows],
        "benchmarks": {
            name: average([(row["value"], row["se"]) for row in of])
            | {"languages": [row["language"] for row in of if row["language"]]}
            for name, of in benchmarks.items()
        },
    }
