"""Asking the judge again what it has been asked: `FOLDER`/audit/repeat-K, each with answers of its own.

An endpoint's cache would give the first answer again; so each time has its own cache, and neither the evaluation's nor
the user's is read. The same command resumes, and asks nothing twice in one repeat.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eval.audit.summary import Repeats
from eval.audit.verdicts import Evaluated, Judged
from eval.evaluate import key_of_judge
from eval.judges.asking import Judging
from eval.judges.open import check_judge, locate_judges, name_judge
from eval.standing import SETTINGS_FILE
from eval.xalpaca.pairwise import run_verdicts
from icr.base.content import hash_value
from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.files import read_rows, write_rows
from icr.base.lock import RunLock
from icr.base.rundir import open_run, start_date
from icr.base.yaml_text import read_yaml
from icr.config.evaluation import EvaluationConfig
from icr.config.load import load_config, make_section
from icr.config.schema import Judge
from icr.engines.check import check_located
from icr.rows import RESPONSES
from icr.work.machine import Machine

if TYPE_CHECKING:
    from rich.console import Console


def ask_again(evaluated: Evaluated, repeats: int, sample: int, overrides: Sequence[str], console: Console) -> Repeats:
    """Have the same judge compare the same answers again.

    Args:
        repeats: how often.
        sample: prompts of each language, the same in all of them, drawn by their ids.
        overrides: as in `--set`: where the judge is, what it may cost.

    Returns:
        What it says, by language and repeat.

    Raises:
        UserError: the settings cannot be read, or name another judge; the judge cannot be used.
        StageFailed: a worker failed, or too many questions have no verdict.
    """
    judge, date = _read_judge(evaluated.folder, overrides)
    if name_judge(judge) != evaluated.summary["judge"]:
        what = f"these verdicts are by {evaluated.summary['judge']}, but --set names the judge {name_judge(judge)}"
        raise UserError(what, where="judge.model", do="name the same judge, or leave its name out")
    judge = judge.model_copy(update={"cache": "none"})
    check_judge(judge)
    models = locate_judges(judge)
    for model in models.values():
        check_located(model, "judge.model")
    out = evaluated.folder / "audit"
    chosen = {lang: choose(items, sample) for lang, items in evaluated.languages.items()}
    found: dict[str, list[dict[str, dict[str, float]]]] = {lang: [] for lang in chosen}
    out.mkdir(parents=True, exist_ok=True)
    lock = RunLock(out / ".lock")
    machine = Machine(out, console, [lock.fd])
    try:
        folder = next(iter(machine.folders(set(models.values()), None).values())) if models else None
        for number in range(1, repeats + 1):
            place = out / f"repeat-{number}"
            _write_answers(evaluated.folder, chosen, place / "answers")
            key = hash_value([key_of_judge(judge, models), number])
            judging = Judging.of(judge, folder, machine, key, place / "cache.sqlite", date)
            baseline = {lang: {item.id: item.theirs for item in items} for lang, items in chosen.items()}
            run_verdicts(judging, place / "answers", baseline, place, evaluated.summary["orders"])
            for lang in chosen:
                found[lang].append(_read_verdicts(place / "verdicts" / f"{lang}.parquet"))
    finally:
        machine.stop()
        lock.release()
    return found


def choose(items: Sequence[Judged], sample: int) -> list[Judged]:
    """So many prompts that the judge was asked about, drawn by their ids: translations of a prompt are drawn alike."""
    asked = [item for item in items if not item.identical]
    return sorted(asked, key=lambda item: hashlib.sha256(f"audit\x1f{item.id}".encode()).digest())[:sample]


def _read_judge(folder: Path, overrides: Sequence[str]) -> tuple[Judge, str]:
    """The judge's settings, and the date that chat templates take for today.

    Raises:
        UserError: they cannot be read.
    """
    file = folder / SETTINGS_FILE
    if file.is_file():
        data = read_yaml(file, "the settings of this evaluation").data
        if not isinstance(data, dict):
            raise UserError("not the settings of an evaluation", where=str(file), do="restore the file")
        return make_section(EvaluationConfig, data, overrides, source=file).judge, start_date(folder)
    run = open_run(folder.resolve().parent.parent)
    return load_config(run.config, overrides).judge, start_date(run.path)


def _write_answers(folder: Path, chosen: dict[str, list[Judged]], out: Path) -> None:
    for lang, items in chosen.items():
        wanted = {item.id for item in items}
        rows: list[Fields] = [r for r in read_rows(folder / "answers" / f"{lang}.parquet") if r["prompt_id"] in wanted]
        write_rows(out / f"{lang}.parquet", rows, RESPONSES)


def _read_verdicts(path: Path) -> dict[str, dict[str, float]]:
    """Prompt id → order → preference, of the questions that have a verdict; all prompts are there."""
    found: dict[str, dict[str, float]] = {}
    for row in read_rows(path):
        of_prompt = found.setdefault(row["prompt_id"], {})
        if row["preference"] is not None:
            of_prompt[row["order"]] = row["preference"]
    return found
