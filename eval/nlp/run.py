"""NLP benchmarks (Table 4): lm-eval's tasks on one model, each kept as soon as it is measured.

What is written, in `out`/nlp: TASK.json and TASK.parquet for every task (its value and every item's), and summary.json
when all are there. `eval.nlp.table` puts the summaries of several rounds side by side.

lm-eval is used through its Python API: `lm_eval.evaluate` on a model that is loaded once. `lm_eval.simple_evaluate`
gives the same values, and looks the whole machine over (`pip list`, `lscpu`) each time: four seconds a task.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from eval.folders import summary_path
from eval.nlp.result import ITEMS, average, read_result
from eval.nlp.tasks import SEED, Catalogue, NlpTask, Plan, check_settings, plan_tasks
from icr.base.errors import UserError
from icr.base.files import read_json, write_json, write_rows
from icr.base.progress import Reporter
from icr.config.schema import Nlp

Row = dict[str, Any]

BOOTSTRAPS = 1000
"""For the standard errors of metrics that are no means."""


def run_nlp(
    settings: Nlp,
    model: str,
    languages: Sequence[str],
    out: Path,
    reporter: Reporter,
    index: int = 0,
    of: int = 1,
) -> Row:
    """Measure what `out`/nlp does not hold yet for this model under these settings.

    Args:
        model: a folder or hub id.
        index, of: this process takes every `of`-th task, from the `index`-th; whoever ends last writes the summary.

    Returns:
        The summary, or {} while another process still has tasks to do: {"model", "backend", "limit", "lm_eval",
        "without": {LANG: [benchmark]}, "tasks": [{task, benchmark, language, metric, value, se, n, of, few_shot,
        version, too_long, higher_is_better, metrics, seconds, backend, dtype}], "benchmarks": {NAME: {value, se,
        languages}}}. Values are as lm-eval gives them, shares of 1 for accuracies.

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
    catalogue = Catalogue(settings.include_path)
    plan = plan_tasks(settings, languages, catalogue)
    if index == 0:
        for lang, benchmarks in plan.without.items():
            reporter.note(f"no task for {lang} in {', '.join(benchmarks)}: not measured there")
    todo = [t for t in plan.tasks[index::of] if _kept(folder, t, terms) is None]
    if todo:
        _measure(todo, settings, model, catalogue, folder, terms, reporter)
    rows = [_kept(folder, task, terms) for task in plan.tasks]
    if not all(rows):
        return {}
    summary = _summary([row for row in rows if row], plan, settings, model) | {"fingerprint": whole}
    write_json(summary_path(out, "nlp"), summary)
    return summary


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


def _measure(
    todo: Sequence[NlpTask],
    settings: Nlp,
    model: str,
    catalogue: Catalogue,
    folder: Path,
    terms: Row,
    reporter: Reporter,
) -> None:
    """Run tasks one after the other and write each when it is done."""
    from eval.nlp.models import Scorer

    # all data first: what is missing is said before the model is loaded and hours have passed
    loaded = [catalogue.load(task) for task in todo]
    sizes = [min(len(task.eval_docs), settings.limit or len(task.eval_docs)) for task in loaded]
    for task, ready in zip(todo, loaded, strict=True):
        given = ready.get_config("num_fewshot")
        if task.few_shot not in (None, given):
            reporter.note(f"{task.name}: its file fixes {given} few-shot examples; {task.few_shot} were asked for")
    reporter.progress(0, sum(sizes))
    scorer = Scorer(model, settings)
    before = 0
    for task, ready, size in zip(todo, loaded, sizes, strict=True):

        def progress(done: int, total: int, size: int = size, before: int = before) -> None:
            reporter.progress(before + size * done // max(1, total), sum(sizes))

        scorer.on_progress(progress)
        row, items = _evaluate(scorer, task, ready, settings.limit)
        if row["too_long"]:
            reporter.note(f"{task.name}: {row['too_long']} texts too long for the model, their beginnings were cut off")
        write_rows(_path(folder, task.name, "parquet"), items, ITEMS)
        write_json(_path(folder, task.name, "json"), row | {"fingerprint": _fingerprint(task, terms)})
        before += size
        reporter.progress(before, sum(sizes))


def _evaluate(scorer: Any, task: NlpTask, ready: Any, limit: int | None) -> tuple[Row, list[Row]]:
    """One task: its record, and the values of its items."""
    import torch
    from lm_eval import evaluate

    began, too_long = time.monotonic(), scorer.too_long
    torch.manual_seed(SEED)
    try:
        result = evaluate(
            scorer.lm, {"tasks": {task.name: ready}}, limit=limit, bootstrap_iters=BOOTSTRAPS, log_samples=True
        )
    except torch.OutOfMemoryError as error:
        raise UserError(
            "the GPU's memory is full",
            where=f"task {task.name}",
            do="set judge.nlp.batch_size to a small number; the tasks that are done stay",
        ) from error
    row, items = read_result(result, task.name)
    row |= {"benchmark": task.benchmark, "language": task.language, "too_long": scorer.too_long - too_long}
    row |= {"seconds": round(time.monotonic() - began, 1), "backend": scorer.backend, "dtype": scorer.dtype}
    return row, items


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
