"""The checkpoints a killed training continues from. One counts only with its marker, which is written last."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from icr.base.errors import some
from icr.base.files import read_json, write_json
from loops.spec import TrainSpec

MARKER = "complete.json"
FREE = {
    "micro_batch_size", "gradient_checkpointing", "processes", "nodes", "launcher", "save_minutes", "save_steps",
    "validation_steps", "report_to",
}  # fmt: skip
"""Settings under `train` that may change during a training."""


class Checkpoints:
    """`work/checkpoints/checkpoint-K` after K optimiser steps; only the newest complete one is kept."""

    def __init__(self, path: Path, processes: int, settings: Mapping[str, object] | None = None) -> None:
        """`settings`: what the training's result depends on, see `result_settings`."""
        self.path, self.processes, self.settings = path, processes, dict(settings or {})

    def newest(self) -> Path | None:
        """The checkpoint to continue from, or None."""
        found = self._newest()
        return None if found is None or self.obstacle() else found

    def obstacle(self) -> str | None:
        """Why the newest checkpoint cannot be continued from, or None.

        DeepSpeed splits the optimiser's state by rank, and cannot put it together for another number of processes.
        """
        found = self._newest()
        if found is None:
            return None
        marker = read_json(found / MARKER)
        if marker["processes"] != self.processes:
            return f"it was started with {marker['processes']} process(es) and now has {self.processes}"
        before = marker.get("settings")
        if before is None:  # written by a version that did not note them
            return None
        changed = [name for name in {**before, **self.settings} if before.get(name) != self.settings.get(name)]
        return f"these settings have changed since it was started: {some(changed)}" if changed else None

    def steps_done(self) -> int:
        """Optimiser steps up to the newest complete checkpoint."""
        found = self._newest()
        return 0 if found is None else _step(found)

    def delete_incomplete(self) -> None:
        for folder in self._all():
            if not (folder / MARKER).is_file():
                shutil.rmtree(folder)

    def delete_all(self) -> None:
        """Delete every checkpoint, to start again."""
        for folder in reversed(self._all()):
            # the marker goes first: a half-deleted checkpoint must not count
            (folder / MARKER).unlink(missing_ok=True)
            shutil.rmtree(folder)

    def complete(self, step: int) -> None:
        """Put the marker on the checkpoint of this step once its files are on disk; then delete the older ones."""
        folder = self.path / f"checkpoint-{step}"
        for file in folder.rglob("*"):
            if file.is_file():
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
        write_json(folder / MARKER, {"processes": self.processes, "settings": self.settings})
        for older in self._all():
            if older != folder:
                (older / MARKER).unlink(missing_ok=True)
                shutil.rmtree(older)

    def _newest(self) -> Path | None:
        found = [p for p in self._all() if (p / MARKER).is_file()]
        return found[-1] if found else None

    def _all(self) -> list[Path]:
        """By step, the newest last."""
        found = [p for p in self.path.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()]
        return sorted(found, key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def result_settings(spec: TrainSpec) -> dict[str, object]:
    """What the result of a training depends on, by names that a message can show; JSON values."""
    train = spec.train.model_dump(mode="json", exclude=FREE)
    with open(spec.data, "rb") as file:
        data = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        **{f"train.{name}": value for name, value in train.items()},
        "objective": spec.objective,
        **{f"objective.{name}": value for name, value in spec.settings.items()},
        # a folder's name is not its content, and a run may be moved; log-probs under the model are in the data
        "model": "" if Path(spec.model).is_dir() else spec.model,
        "data": data,
    }
