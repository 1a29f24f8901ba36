"""What an evaluation is made from, and whether its folder still matches: `OUT/steps.json`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

from eval.folders import summary_path
from eval.judges.open import identify_judge
from eval.judges.prompts import identify_prompts
from eval.xalpaca.answers import heldout_prompts
from icr.base.content import canonical_json, hash_file, hash_folder, hash_rows, identify_model
from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.files import read_json, write_json
from icr.base.rundir import StageRecord
from icr.base.yaml_text import read_yaml
from icr.config.evaluation import EvaluationConfig
from icr.config.load import flatten, make_section
from icr.work.settings import OPERATIONAL, PLAN, SINCE, USES, values_of
from icr.work.steps import Step, show, stale, stamp
from prompts.tables import GZIP, ROWS

SETTINGS_FILE = "evaluation.yaml"
OF_ENDPOINTS = ("judge.model", "judge.base_url", "judge.preference")
"""Settings that count where an endpoint judges; a local judge is an input, known by its weights."""
DO = "restore the old values and files, or use another --out folder"
ANSWER_FILES = (*(f"{{}}{suffix}{end}" for suffix in ROWS for end in ("", GZIP)), "{}/*.jsonl")


def describe_evaluation(
    config: EvaluationConfig,
    model: str | None,
    judge_models: Mapping[str, str],
    precision: Callable[[Literal["auto", "fp32", "bf16"]], str],
) -> Step:
    """One benchmark on one model as a step.

    Args:
        model: as `icr.engines.folders.locate` gives it; None where its answers are given.
        judge_models: local judges', likewise, by the names that the settings have for them.
        precision: resolves `auto`.

    Raises:
        UserError: a class of the user's, or prompts, cannot be read.
    """
    settings = dict(_settings(config, samples=model is not None))
    if "sampling.precision" in settings:
        settings["sampling.precision"] = precision(config.sampling.precision)
    return Step(config.benchmark, dict(_inputs(config, model, judge_models)), settings)


def _settings(config: EvaluationConfig, *, samples: bool) -> Iterator[tuple[str, object]]:
    yield "languages", config.languages
    if config.template_arguments:
        yield "template_arguments", config.template_arguments
    for key, stages in USES.items():
        section, _, _ = key.partition(".")
        if f"judge/{config.benchmark}" not in stages or section not in ("sampling", "judge"):
            continue
        if (key == "sampling.stop" and not config.sampling.stop) or (
            key == "judge.nlp.chat_template" and not config.judge.nlp.chat_template
        ):
            continue  # they did not exist once
        if (section == "sampling" and not samples) or (key in OF_ENDPOINTS and not config.judge.asks_endpoint):
            continue
        if key in SINCE and key != "judge.judges" and not config.judge.asks_endpoint:
            continue
        yield from ((key, value) for value in values_of(config, key) if key not in SINCE or value != SINCE[key])


def _inputs(config: EvaluationConfig, model: str | None, judge_models: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    judge, languages = config.judge, config.languages
    if model is None:
        yield "answers", _hash_files(Path(config.model), languages)
    else:
        yield "model", identify_model(model)
    if config.chat_template:
        yield "chat template", hash_file(Path(config.chat_template))
    if config.benchmark != "nlp":
        yield from identify_judge(judge, judge_models).items()
        yield from identify_prompts(judge, [config.benchmark]).items()
    if config.benchmark == "xalpaca":
        yield "baseline answers", _hash_files(Path(judge.baseline), languages)
        if judge.prompts and (model is not None or judge.difficulty):
            prompts = heldout_prompts(judge, languages, every=judge.difficulty is not None)
            for lang in languages:
                yield f"prompts in {lang}", hash_rows({"id": p.id, "text": p.text} for p in prompts if p.lang == lang)
        for name, path in (("difficulties", judge.difficulty), ("gamed baselines", judge.gamed)):
            if path:
                yield name, hash_file(Path(path))
    if config.benchmark == "mtbench" and judge.mtbench:
        yield "questions", _hash_files(Path(judge.mtbench.questions), languages)
        if judge.mtbench.references and Path(judge.mtbench.references).is_dir():
            yield "references", _hash_files(Path(judge.mtbench.references), languages)
    if config.benchmark == "nlp" and judge.nlp.include_path:
        yield "task files", hash_folder(Path(judge.nlp.include_path))


def _hash_files(folder: Path, languages: Sequence[str]) -> str:
    return hash_folder(folder, [pattern.format(lang) for lang in languages for pattern in ANSWER_FILES])


def settle(out: Path, config: EvaluationConfig, step: Step, note: Callable[[str], None]) -> StageRecord | None:
    """The folder's record of the step; None if it was not started.

    Work that was not finished is removed where the files that it was made from have changed since. So is work with
    other settings if nothing is lost with it, so that the advice of a judge's error can be followed at once.

    Args:
        note: gets a line for the user about that.

    Raises:
        UserError: finished work was made from other files; work that was started has other settings.
    """
    record = read_records(out).get(step.name) or _read_old(out, config, step)
    return settle_step(
        step,
        record,
        whole=summary_path(out, step.name).is_file(),
        holds="an evaluation",
        where=out / SETTINGS_FILE,
        remove=lambda: forget(out, step.name),
        note=note,
        nothing_lost=record is not None and _loses_nothing(config, step, record),
    )


def _loses_nothing(config: EvaluationConfig, step: Step, before: StageRecord) -> bool:
    """Whether an unfinished evaluation may start over: its answers were given, and what an endpoint was paid for stays
    in a cache, which knows all of a question but the address."""
    same = all((before.settings or {}).get(key) == step.settings.get(key) for key in ("judge.base_url", "judge.judges"))
    return same and "answers" in step.inputs and all(judge.kind == "openai" for judge in config.judge.each.values())


def settle_step(
    step: Step,
    record: StageRecord | None,
    *,
    whole: bool,
    holds: str,
    where: Path,
    remove: Callable[[], None],
    note: Callable[[str], None],
    do: str = DO,
    nothing_lost: bool = False,
) -> StageRecord | None:
    """The record of a step as it still holds; None if the step was not started.

    Args:
        whole: whether the files of a finished step are there.
        holds, where: what the folder has of the step, and its settings file, for messages.
        remove: removes work that was not finished and was made from other files.
        nothing_lost: work that was not finished may be removed also where settings have changed.

    Raises:
        UserError: finished work was made from other files; work that was started has other settings.
    """
    if record is None:
        return None
    if record.state == "done" and not whole:
        record.state = "failed"
    changes = stale(step, record)
    others = canonical_json(record.settings) != canonical_json(dict(step.settings))
    if changes and ((others and not nothing_lost) or record.state == "done"):
        lines = "\n".join(f"    {change}" for change in changes)
        what = f"this folder holds {holds} of other files or with other settings:\n{lines}"
        raise UserError(what, where=str(where), do=do)
    if changes:
        note(f"{step.title} starts over: {'; '.join(changes)}")
        remove()
    return record


def forget(out: Path, benchmark: str) -> None:
    """Remove what an unfinished benchmark has made; answers of an endpoint, which were paid for, stay."""
    made = {"xalpaca": ["answers", "verdicts"], "mtbench": ["mtbench/answers", "mtbench/verdicts"]}
    for name in made.get(benchmark, []):
        shutil.rmtree(out / name, ignore_errors=True)


def begin(step: Step, before: StageRecord | None) -> StageRecord:
    """The record of a step that is being done; the seconds of earlier tries count."""
    seconds = before.seconds if before else 0.0
    return stamp(step, StageRecord(state="running", started=time.time(), seconds=seconds))


def write_record(out: Path, benchmark: str, record: StageRecord) -> None:
    records = {**read_records(out), benchmark: record}
    write_json(_records_path(out), {name: kept.model_dump(mode="json") for name, kept in records.items()})


def _records_path(out: Path) -> Path:
    return out / "steps.json"


def read_records(out: Path) -> dict[str, StageRecord]:
    """Step name → record of `OUT/steps.json`. Raises UserError where it cannot be read."""
    path = _records_path(out)
    if not path.is_file():
        return {}
    try:
        return {name: StageRecord.model_validate(record) for name, record in read_json(path).items()}
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"this evaluation's record cannot be read: {error}",
            where=str(path),
            do="restore the file, or use another --out folder",
        ) from error


def _read_old(out: Path, config: EvaluationConfig, step: Step) -> StageRecord | None:
    """The record of an evaluation by an icr that kept none: its settings, paths included, are those of now.

    Raises:
        UserError: they are others, or cannot be read.
    """
    path = out / SETTINGS_FILE
    if not path.is_file() or _records_path(out).is_file():
        return None
    old = _load_old(path)
    before, now = flatten(old), flatten(config)
    changed = [key for key in before | now if before.get(key) != now.get(key) and not _may_change(key)]
    if changed:
        lines = "\n".join(f"    {key}: {show(before.get(key))} → {show(now.get(key))}" for key in changed)
        raise UserError(f"this folder holds an evaluation with other settings:\n{lines}", where=str(path), do=DO)
    state: Literal["done", "failed"] = "done" if summary_path(out, step.name).is_file() else "failed"
    return stamp(step, StageRecord(state=state, started=path.stat().st_mtime))


def _may_change(key: str) -> bool:
    return USES.get(key) in ((OPERATIONAL,), (PLAN,))


def _load_old(path: Path) -> EvaluationConfig:
    """The settings of an evaluation that were written in the form of a run's config."""
    try:
        old = cast(Fields, read_yaml(path, "the settings of this evaluation").data)
        data = {
            "benchmark": old["judge"]["benchmarks"][0],
            "model": old["models"]["reference"],
            "languages": old["prompts"]["languages"],
            "chat_template": old["models"].get("chat_template"),
            "sampling": old["sampling"],
            "judge": old["judge"],
        }
        return make_section(EvaluationConfig, data, source=path)
    except (KeyError, IndexError, TypeError, AttributeError, UserError) as error:
        raise UserError(
            "this folder holds an evaluation by another version of icr, which cannot be continued",
            where=str(path),
            do="use another --out folder",
        ) from error
