"""The best model of a training so far, by a figure of its validation."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

from icr.base.files import atomic_folder, read_json, write_json
from loops.spec import adapter_folder

SCORE = "score.json"
MODEL = "model"


class Score(TypedDict):
    """When the model was the best, and how good it was."""

    step: int
    loss: float
    """The validation loss, or minus the figure that the model is chosen by: the best one has the lowest."""


class Best:
    """`work/best/step-K/`: the model after K optimiser steps as it would be exported, and its score."""

    def __init__(self, path: Path) -> None:
        self.path = path
        found = self._all()
        self.score: Score | None = min(found.values(), key=lambda score: score["loss"]) if found else None

    def is_beaten_by(self, loss: float) -> bool:
        """Whether a model of this loss (see `Score`) is better; an equal one is not."""
        return self.score is None or loss < self.score["loss"]

    def keep(self, step: int, loss: float, export: Callable[[Path], None], first: bool) -> None:
        """Keep the present model in place of the one so far; called on every rank.

        Args:
            export: writes the present model to a folder, with the help of every rank, on the first one.
            first: whether this is the first rank.
        """
        self.score = {"step": step, "loss": loss}
        if not first:
            export(self.path)  # nothing is written here
            return
        with atomic_folder(self.path / f"step-{step}") as folder:
            export(folder / MODEL)
            write_json(folder / SCORE, self.score)
        for name in self._all():
            if name != f"step-{step}":
                shutil.rmtree(self.path / name)

    def move_to(self, output: Path) -> None:
        """Make the best model the training's output. Raises FileNotFoundError when none was kept."""
        if self.score is None:
            raise FileNotFoundError(f"no validated model in {self.path}")
        kept = self.path / f"step-{self.score['step']}" / MODEL
        if adapter_folder(kept).is_dir():
            shutil.rmtree(adapter_folder(output), ignore_errors=True)  # of a move that was killed
            os.replace(adapter_folder(kept), adapter_folder(output))
        os.replace(kept, output)

    def delete_incomplete(self) -> None:
        """Delete what a killed process left half-written."""
        for left in self.path.glob(".step-*.tmp"):
            shutil.rmtree(left)

    def forget(self, delete: bool) -> None:
        """Forget the best model. `delete` also removes its files: on the first rank."""
        self.score = None
        if delete:
            shutil.rmtree(self.path, ignore_errors=True)

    def _all(self) -> dict[str, Score]:
        return {file.parent.name: read_json(file) for file in sorted(self.path.glob(f"step-*/{SCORE}"))}
