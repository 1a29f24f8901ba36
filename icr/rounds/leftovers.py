"""The files that a stage and a refused command make, and which of them are removed when."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from icr.base.errors import UserError
from icr.base.lock import is_held
from icr.base.rundir import RoundDir, RunDir, Stage


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


@contextmanager
def undone_if_refused(run: RunDir) -> Iterator[None]:
    """A command that is refused before its first stage leaves the run folder as it was: a new one is gone, and an older
    one has its config.yaml back. Without this a refused config would be taken for that of a run.

    Raises:
        UserError: the refusal.
    """
    before = set(os.listdir(run.path)) if run.path.is_dir() else None
    config = run.config.read_bytes() if run.config.is_file() else None
    try:
        yield
    except UserError:
        if run.path.is_dir() and not is_held(run.lock):  # another command may be using it
            _undo(run, before, config)
        raise


def _undo(run: RunDir, before: set[str] | None, config: bytes | None) -> None:
    if before is None:
        shutil.rmtree(run.path)
        return
    for name in set(os.listdir(run.path)) - before:
        path = run.path / name
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    if config is not None and run.config.read_bytes() != config:
        run.config.write_bytes(config)
