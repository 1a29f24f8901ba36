"""What several runs may share: names for what their stages make, equal exactly when the inputs are."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from icr.base.files import atomic_folder, atomic_path
from icr.base.rundir import RoundDir, RunDir, Stage
from icr.config.schema import Config

Counts = dict[str, Any]
Borrow = Callable[[int, Stage], Counts | None]
"""(round, stage) → the counts of a stage that another run has done, its files now here, too; None: there is none."""


class Lineage:
    """From what each stage of a run is made, as a hash. Two runs with equal hashes make the same files."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def key(self, number: int, stage: Stage) -> str:
        """Of one stage of one round."""
        c = self._config
        match stage:
            case "align":
                return _hash("align", c.models, c.alignment, c.train)
            case "sample":
                return _hash("sample", self.policy(number - 1), c.prompts, c.sampling, number, c.reward.kind == "lidr")
            case "score":
                terms = c.reward.model_copy(update={"reference": "initial"})  # it is named by what it is, instead
                source = [_source(c.reward.kind), c.models.chat_template]
                return _hash(self.key(number, "sample"), terms, self.reference(number), source)
            case "pair":
                return _hash("pair", self.key(number, "score"))
            case "train":
                made = [self.key(number, "pair"), self.policy(number - 1)]
                return _hash("train", made, c.train, c.objective, _source(c.objective))
            case "judge":
                # round 0's own answers are the baseline of the rounds that name no other
                return _hash("judge", self.policy(number), self.policy(0), c.judge, c.prompts, c.sampling, number == 0)

    def policy(self, number: int) -> str:
        """π_θ^number."""
        if number > 0:
            return self.key(number, "train")
        models = self._config.models
        return _hash("model", models.policy, models.chat_template) if models.policy else self.key(0, "align")

    def reference(self, number: int) -> str:
        """π_ref of the reward in round `number`."""
        if self._config.reward.reference == "previous" and number > 1:
            return self.policy(number - 2)
        return _hash("model", self._config.models.reference, self._config.models.chat_template)

    def measurement(self, number: int, name: str) -> str:
        """One pass over a round's responses (`icr.work.job.Pass`): by which model, given what."""
        c = self._config
        by = {"policy": self.policy(number - 1), "reference": self.reference(number)}.get(name.removesuffix("-fp32"))
        terms = [c.reward.kind, c.reward.model, c.reward.precision, c.reward.flip_check, _source(c.reward.kind)]
        # a translation is the policy's, also where the reference scores it
        made_by = self.policy(number - 1) if c.reward.kind == "translate" else None
        return _hash(self.key(number, "sample"), name, by, terms, made_by)


def _hash(*parts: Any) -> str:
    plain = [part.model_dump(mode="json") if hasattr(part, "model_dump") else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _source(name: str) -> str | None:
    """The text of a user's own `module:Class`, which decides what it does as much as its name."""
    if ":" not in name:
        return None
    from icr.base.plugins import load_class

    path = inspect.getsourcefile(load_class(name, name))
    return Path(path).read_text(encoding="utf-8") if path else None


def borrower(own: RunDir, lineage: Lineage, others: Sequence[tuple[str, RunDir, Lineage]]) -> Borrow:
    """Takes over a stage that one of the `others` (name, run, lineage) has done from the same inputs."""

    def borrow(number: int, stage: Stage) -> Counts | None:
        key = lineage.key(number, stage)
        for name, run, other in others:
            if run.round(number).done(stage) and other.key(number, stage) == key:
                for source, target in zip(
                    _made(run.round(number), stage), _made(own.round(number), stage), strict=True
                ):
                    _copy(source, target)
                return run.round(number).record.stages[stage].counts | {"shared_with": name}
        return None

    return borrow


def _made(at: RoundDir, stage: Stage) -> list[Path]:
    """What a stage leaves behind."""
    files: dict[Stage, list[Path]] = {
        "align": [at.model, at.train],
        "sample": [at.responses],
        "score": [at.rewards, at.lengths, at.translations],
        "pair": [at.pairs],
        "train": [at.model, at.train],
        "judge": [at.judge],
    }
    return files[stage]


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
