"""Translate-train inside `icr transfer`: a source's rows in a target's language, once a pair of languages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from icr.base.content import hash_file, identify_model
from icr.base.fields import Fields
from icr.base.files import read_object
from icr.base.progress import Silent
from icr.config.schema import Endpoint
from icr.config.transfer import TransferConfig
from icr.endpoint.prices import Estimate
from icr.engines.folders import locate
from icr.experiments.cells import Recorded
from icr.work.machine import Machine
from icr.work.steps import Step
from prompts.asking import NO_ANSWER
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
    return plan_job(config, config.data.preferences, translated_rows(config, source, target), source, target)


def plan_job(config: TransferConfig, data: str, out: Path, source: str, target: str) -> DataJob:
    """A translation of `data` by the experiment's translator."""
    asked = config.translator
    assert asked is not None
    return DataJob(
        out=str(out),
        kind=asked.kind,
        model=asked.model,
        settings=Endpoint.model_validate(asked.model_dump(include=set(Endpoint.model_fields))),
        backend=asked.backend,
        keys="translator",
        folder=data,
        source=source,
        targets=[target],
        back=False,
        limit=config.data.limit,
    )


def translation_cell(job: DataJob, trained: str, machine: Machine, describe: Callable[[], Step]) -> Recorded:
    """The cell of a translation, whose folder is the one that `job.out` is in.

    Rows without an answer are asked for again by the next command, until a model has been trained on the others: later
    it would be one of other data than all that was measured of it.

    Args:
        trained: the name of the cell that trains on the rows.
    """
    rows = Path(job.out)
    model = rows.parent.with_name(trained) / "model"
    lang = (job.source if job.back else None) or job.targets[0]
    """That the rows end in."""

    def work(step: Step, machine: Machine) -> Fields:
        machine.translate(job, WORKER)
        report = read_object(rows / REPORT)
        of, cost = report["languages"][lang], report["translation"]["cost"]
        lost = sum(of["left_out"].values())
        if lost:
            machine.note(f"{rows.parent.name}: {lost} of {of['rows']} rows dropped ({_say(of['left_out'])})")
        if _lacks_answers(rows):
            machine.note(f"{rows.parent.name}: --only '{rows.parent.name}' asks for rows without an answer again; once "
                         f"{trained} is done, they stay left out")  # fmt: skip
        return {"rows": of["rows"], "train": of["train"], "validation": of["validation"],
                "dropped": of["left_out"], "cost": cost}  # fmt: skip

    files = tuple(f"data/{name}" for name in (TRAIN, VALIDATION, REPORT))
    again = lambda: not model.exists() and _lacks_answers(rows)  # noqa: E731
    name, holds = rows.parent.name, f"translations into {lang}"
    return Recorded(name, rows.parent, (), machine, describe, work, files, holds, again, here=True)


def _lacks_answers(rows: Path) -> bool:
    """Whether rows were dropped because an answer did not come."""
    reasons = [reason for of in read_object(rows / REPORT)["languages"].values() for reason in of["left_out"]]
    return any(reason.endswith(f": {NO_ANSWER}") for reason in reasons)


def describe_translation(config: TransferConfig, job: DataJob) -> Step:
    """What the translated rows depend on."""
    asked, folder = config.translator, Path(job.folder)
    assert asked is not None
    inputs = {"training data": hash_file(folder / TRAIN), "validation data": hash_file(folder / VALIDATION)}
    if asked.kind == "local":
        inputs["translator"] = identify_model(locate(asked.model, "translator.model"))
    settings: Fields = {f"translator.{name}": getattr(asked, name) for name in ASKED}
    settings |= {"from": job.source, "to": job.targets[0], "data.limit": job.limit}
    settings |= {name: True for name in ("back", "demonstrations") if getattr(job, name)}
    return Step("translate", inputs, settings)


@dataclass(frozen=True)
class Translations:
    """The cells that translate what reward models are trained on."""

    config: TransferConfig
    machine: Machine

    def cells(self) -> list[Recorded]:
        return [self._cell(source, target) for source, target in self.config.translated]

    def _cell(self, source: str, target: str) -> Recorded:
        job = plan_translation(self.config, source, target)
        describe = lambda: describe_translation(self.config, job)  # noqa: E731
        return translation_cell(job, f"rm-{source}-to-{target}", self.machine, describe)

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
