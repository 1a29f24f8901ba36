"""The models that a run's config names: what they are called, and the folders that they are in."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from eval.judges.open import name_models
from icr.base.hub import read_hub_id
from icr.base.rundir import RunDir
from icr.base.shown import show_path
from icr.config.schema import Config
from icr.rounds.check_models import check_materialised
from icr.rounds.context import Inputs
from icr.work.machine import Machine


class RunModels:
    """Of one run and command."""

    def __init__(
        self, run: RunDir, config: Config, inputs: Inputs, contents: Mapping[str, str], machine: Machine
    ) -> None:
        """`contents`: what is in them, see `icr.rounds.contents`."""
        self._run, self._config, self._inputs, self._contents, self._machine = run, config, inputs, contents, machine

    @cached_property
    def folders(self) -> dict[str, str]:
        """Every model of the config as a folder, checked."""
        inputs = self._inputs
        names = (inputs.policy, inputs.reference, *inputs.judges.values())
        pinned = {name: self._pin(name) for name in names if name}
        folders = self._machine.folders(set(pinned.values()), self._config.models.chat_template)
        found = {name: folders[exact] for name, exact in pinned.items()}
        check_materialised(self._config, inputs, found)
        return found

    def called(self) -> dict[str, str]:
        """Folder → what records and model cards call the model in it."""
        called = {name: show_path(self._pin(name), self._run.path).removeprefix("…/") for name in self.folders}
        return {folder: called[name] for name, folder in self.folders.items()}

    def portable(self, model: str) -> str:
        """A model's name as `--from` takes it: a path inside the run folder is relative to it."""
        if not model:
            return f"{self._run.round(0).path.name}/model"
        inside = show_path(model, self._run.path)
        return inside if Path(model).is_absolute() and not inside.startswith("…/") else self._pin(model)

    def _pin(self, model: str) -> str:
        """A hub id with the commit that it is known by; any other name as it is."""
        inputs = self._inputs
        judges = name_models(self._config.judge, inputs.judges)
        known = {"policy": inputs.policy, "reference": inputs.reference, **judges}
        found = next((self._contents[name] for name, of in known.items() if of == model), model)
        return found if read_hub_id(found) else model
