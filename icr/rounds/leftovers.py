"""The files that a stage makes, and which of them are removed when."""

from __future__ import annotations

import shutil
from pathlib import Path

from icr.base.rundir import RoundDir, Stage


def made_by(at: RoundDir, stage: Stage) -> list[Path]:
    """What a stage leaves behind."""
    files: dict[Stage, list[Path]] = {
        "align": [at.model, at.train, at.adapter],
        "sample": [at.responses],
        "score": [at.rewards, at.lengths, at.translations],
        "pair": [at.pairs],
        "train": [at.model, at.train, at.adapter],
        "judge": [at.judge],
    }
    return files[stage]


def forget(at: RoundDir, stage: Stage) -> None:
    """Remove what an unfinished stage has made from inputs or with settings that have changed since."""
    for path in made_by(at, stage):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def tidy(at: RoundDir, stage: Stage) -> None:
    """Remove what a stage needed only until its record said that it is done."""
    leftovers = {
        "sample": [at.responses / "shards"],
        "score": [at.rewards / "shards", at.translations / "shards"],
        "judge": [at.judge / "answers" / "shards", at.judge / "mtbench" / "answers" / "shards"],
        "align": [at.train / "reference"],
        "train": [at.train / "reference"],
    }
    for path in leftovers.get(stage, []):
        shutil.rmtree(path, ignore_errors=True)
