"""The checkpoints a killed training continues from. One counts only with its marker, which is written last."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from icr.base.errors import UserError
from icr.base.files import read_json, write_json

MARKER = "complete.json"


class Checkpoints:
    """`work/checkpoints/checkpoint-K` after K optimiser steps; only the newest complete one is kept."""

    def __init__(self, path: Path, processes: int) -> None:
        self.path, self.processes = path, processes

    def newest(self) -> Path | None:
        """The checkpoint to continue from, or None.

        Raises UserError when another number of processes wrote it: DeepSpeed splits the optimiser's state by rank, and
        cannot put it together for another number.
        """
        found = [p for p in self._all() if (p / MARKER).is_file()]
        if not found:
            return None
        written_by = read_json(found[-1] / MARKER)["processes"]
        if written_by != self.processes:
            raise UserError(
                f"the training was begun with {written_by} process(es) and cannot go on with {self.processes}",
                where=str(found[-1]),
                do=f"set train.processes to {written_by}, or delete {self.path} to start this training again",
            )
        return found[-1]

    def delete_incomplete(self) -> None:
        for folder in self._all():
            if not (folder / MARKER).is_file():
                shutil.rmtree(folder)

    def complete(self, step: int) -> None:
        """Put the marker on the checkpoint of this step once its files are on disk; then delete the older ones."""
        folder = self.path / f"checkpoint-{step}"
        for file in folder.rglob("*"):
            if file.is_file():
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
        write_json(folder / MARKER, {"processes": self.processes})
        for older in self._all():
            if older != folder:
                # the marker goes first: a half-deleted checkpoint must not count
                (older / MARKER).unlink(missing_ok=True)
                shutil.rmtree(older)

    def _all(self) -> list[Path]:
        """By step, the newest last."""
        found = [p for p in self.path.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()]
        return sorted(found, key=lambda p: int(p.name.removeprefix("checkpoint-")))
