"""Work that several runs share is done once: a step's files are taken over from a run that has made them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from icr.base.files import atomic_folder, atomic_path
from icr.base.rundir import RoundDir, RunDir, StageRecord
from icr.rounds.controller import Borrow
from icr.rounds.leftovers import made_by
from icr.rounds.plan import parse_step, step_name
from icr.work.runner import Counts
from icr.work.steps import Step, find_done


def lend(runs: Mapping[str, RunDir]) -> Borrow:
    """Gives a run the files of a step that one of `runs`, by name, has done from the same inputs.

    The counts say which run it was: `shared_with`.
    """

    def borrow(step: Step, own: RoundDir) -> Counts | None:
        records = {name: _read_records(run) for name, run in runs.items()}
        found = find_done(step.key, records)
        if found is None:
            return None
        name, theirs = found
        number, stage = parse_step(theirs)
        for source, target in zip(made_by(runs[name].round(number), stage), made_by(own, stage), strict=True):
            _copy(source, target)
        return records[name][theirs].counts | {"shared_with": name}

    return borrow


def _read_records(run: RunDir) -> dict[str, StageRecord]:
    return {step_name(at.number, stage): record for at in run.rounds() for stage, record in at.record.stages.items()}


def _copy(source: Path, target: Path) -> None:
    """Whole or not at all; weights, which nobody writes into, are linked where the file system can."""
    if not source.exists():
        return
    if source.is_file():
        with atomic_path(target) as tmp:
            shutil.copyfile(source, tmp)
        return
    if target.exists():
        shutil.rmtree(target)
    with atomic_folder(target) as tmp:
        shutil.copytree(source, tmp, dirs_exist_ok=True, copy_function=_link_or_copy)


def _link_or_copy(source: str, target: str) -> None:
    if source.endswith(".safetensors"):
        try:
            os.link(source, target)
            return
        except OSError:
            pass  # another file system, or one without links
    shutil.copy2(source, target)
