"""Translate-train inside `icr transfer`: a source's rows in a target's language, once a pair of languages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from icr.base.content import hash_file, identify_model
from icr.base.fields import Fields
from icr.base.files import read_object
from icr.base.progress import Silent
from icr.config.schema import Endpoint
from icr.config.transfer import TransferConfig
from icr.endpoint.endpoint import Estimate
from icr.engines.folders import locate
from icr.experiments.cells import Recorded
from icr.work.machine import Machine
from icr.work.steps import Step
from prompts.preferences.make import REPORT, TRAIN, VALIDATION
from prompts.preferences.translate import WORKER, DataJob

ASKED = ("model", "kind", "reasoning_effort", "extra_body", "system")
"""Of the translator: what its answers depend on."""


def translated_rows(config: TransferConfig, source: str, target: str) -> Path:
    """The folder of preference data that a translation makes."""
    return Path(config.run or "").resolve() / "steps" / f"translate-{source}-{target}" / "data"


def check_translator(config: TransferConfig) -> None:
    """Raises UserError: the model is not found, the endpoint's address, prices or key are wrong or missing."""
    plan_translation(config, config.languages.sources[0], config.languages.targets[0]).check()


def plan_translation(config: TransferConfig, source: str, target: str) -> DataJob:
    """The job, as `icr rm translate` has it."""
    asked = config.translator
    assert asked is not None
    return DataJob(
        out=str(translated_rows(config, source, target)),
        kind=asked.kind,
        model=asked.model,
        settings=Endpoint.model_validate(asked.model_dump(include=set(Endpoint.model_fields))),
        backend=asked.backend,
        keys="translator",
        folder=config.data.preferences,
        source=source,
        targets=[target],
        back=False,
        limit=config.data.limit,
    )


@dataclass(frozen=True)
class Translations:
    """The cells that translate."""

    config: TransferConfig
    machine: Machine

    def cells(self) -> list[Recorded]:
        return [self._cell(source, target) for source, target in self.config.translated]

    def _cell(self, source: str, target: str) -> Recorded:
        job = plan_translation(self.config, source, target)
        rows = Path(job.out)

        def work(step: Step) -> Fields:
            self.machine.translate(job, WORKER)
            report = read_object(rows / REPORT)
            of, cost = report["languages"][target], report["translation"]["cost"]
            lost = sum(of["left_out"].values())
            if lost:
                self.machine.note(f"{rows.parent.name}: {lost} of {of['rows']} rows dropped ({_say(of['left_out'])})")
            return {"rows": of["rows"], "train": of["train"], "validation": of["validation"],
                    "dropped": of["left_out"], "cost": cost}  # fmt: skip

        files = tuple(f"data/{name}" for name in (TRAIN, VALIDATION, REPORT))
        holds = f"translations into {target}"
        return Recorded(rows.parent.name, rows.parent, (), lambda: self._step(source, target), work, files, holds)

    def _step(self, source: str, target: str) -> Step:
        """What the translated rows depend on."""
        asked, folder = self.config.translator, Path(self.config.data.preferences)
        assert asked is not None
        inputs = {"training data": hash_file(folder / TRAIN), "validation data": hash_file(folder / VALIDATION)}
        if asked.kind == "local":
            inputs["translator"] = identify_model(locate(asked.model, "translator.model"))
        settings: Fields = {f"translator.{name}": getattr(asked, name) for name in ASKED}
        return Step(
            "translate", inputs, settings | {"from": source, "to": target, "data.limit": self.config.data.limit}
        )

    def estimate(self, names: Sequence[str]) -> Estimate:
        """The requests of these cells; nothing is sent."""
        total = Estimate(0, 0, 0, 0, 0.0)
        for source, target in self.config.translated:
            if f"translate-{source}-{target}" in names:
                job = plan_translation(self.config, source, target)
                total += job.task().estimate(job.translator(Silent(), dry=True))
        return total


def _say(left_out: Fields) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in left_out.items())
