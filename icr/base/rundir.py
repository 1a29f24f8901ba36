"""The run folder: where its files are, and the record of each round."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from icr.base.errors import UserError, some
from icr.base.fields import Fields
from icr.base.files import read_json, write_json

Stage = Literal["align", "sample", "score", "pair", "train", "judge"]


class StageRecord(BaseModel):
    """One stage of one round. It is done when `state` says so, whatever files exist."""

    state: Literal["running", "failed", "done"]
    started: float
    finished: float | None = None
    seconds: float = 0.0
    """Seconds of work, summed over interruptions."""
    counts: Fields = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    parts: dict[str, Fields] = Field(default_factory=dict)
    """Of a judge stage: benchmark that is done → its counts."""
    key: str = ""
    """Key of the step, see `icr.work.steps`. Empty in records of older runs, as are `inputs` and `settings`."""
    inputs: dict[str, str] = Field(default_factory=dict)
    settings: dict[str, object] = Field(default_factory=dict)


class RoundRecord(BaseModel):
    """`round.json`."""

    round: int
    stages: dict[Stage, StageRecord] = Field(default_factory=dict)


class RoundDir:
    """One `round-N` folder."""

    def __init__(self, path: Path, number: int) -> None:
        self.path, self.number = path, number
        self.responses = path / "responses"
        self.rewards = path / "rewards"
        self.translations = path / "translations"
        self.lengths = path / "lengths.json"
        self.pairs = path / "pairs.parquet"
        self.train = path / "train"
        self.model = path / "model"
        self.adapter = path / "adapter"
        self.judge = path / "judge"
        self.summary = path / "judge" / "summary.json"
        self.record_path = path / "round.json"

    @property
    def record(self) -> RoundRecord:
        if not self.record_path.exists():
            return RoundRecord(round=self.number)
        try:
            return RoundRecord.model_validate(read_json(self.record_path))
        except (ValueError, ValidationError) as error:
            raise UserError(
                f"this round's record cannot be read: {error}",
                where=str(self.record_path),
                do="restore the file, or delete the round's folder to redo the round",
            ) from error

    @property
    def is_given(self) -> bool:
        """Whether this is round 0 of a run whose policy was given, not made by its alignment."""
        return self.number == 0 and not self.done("align")

    def find_model(self) -> Path:
        """The folder of the model that this round has trained. Raises UserError: not trained yet, or deleted since."""
        if self.model.is_dir():
            return self.model
        if self.done("train") or self.done("align"):
            raise UserError(
                f"the model of round {self.number} is gone",
                where=str(self.model),
                do="restore this folder from a backup, or take another round",
            )
        raise UserError(
            f"{self.path} has no trained model yet",
            do=f"finish that round first, or name another one: icr iterate --run {shlex.quote(str(self.path.parent))}",
        )

    def done(self, stage: Stage) -> bool:
        record = self.record.stages.get(stage)
        return record is not None and record.state == "done"

    def write_stage(self, stage: Stage, record: StageRecord) -> None:
        whole = self.record
        whole.stages[stage] = record
        write_json(self.record_path, whole.model_dump(mode="json"))

    def start(self, stage: Stage) -> StageRecord:
        """Mark `stage` running. Seconds spent before an interruption stay counted, and parts stay done."""
        before = self.record.stages.get(stage)
        seconds, parts = (before.seconds, before.parts) if before else (0.0, {})
        record = StageRecord(state="running", started=time.time(), seconds=seconds, parts=parts)
        self.write_stage(stage, record)
        return record


class RunDir:
    """A run folder; see docs/run-folder.md for what each file holds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.report = path / "report.html"
        self.logs = path / "logs"
        self.lock = path / ".lock"

    def round(self, number: int) -> RoundDir:
        return RoundDir(self.path / f"round-{number}", number)

    def rounds(self) -> list[RoundDir]:
        """The rounds that exist, in order."""
        numbers = sorted(
            int(p.name.removeprefix("round-"))
            for p in self.path.glob("round-*")
            if p.is_dir() and p.name.removeprefix("round-").isdigit()
        )
        return [self.round(n) for n in numbers]

    def first_models(self) -> dict[str, str]:
        """The names of the models that the run began with, by role.

        Raises:
            UserError: they are not known, as the run has not begun.
        """
        file = self.round(0).path / "model.json"
        if not file.is_file():
            raise UserError("this run has not begun: the names of its models are missing", where=str(file),
                            do=f"start it: icr iterate --run {self.path}")  # fmt: skip
        return {str(role): str(name) for role, name in read_json(file).items()}


def start_date(folder: Path, at_first: str | None = None) -> str:
    """The date that a run's chat templates take for today, YYYY-MM-DD: the one on which it was started. So a run that
    goes on after midnight, or is resumed later, gives its models the same prompts.

    Args:
        at_first: the date that a new folder gets; None is today.
    """
    file = folder / "started.json"
    if not file.is_file():
        write_json(file, {"date": at_first or time.strftime("%Y-%m-%d")})
    return str(read_json(file)["date"])


def open_round(path: Path, where: str = "") -> RoundDir:
    """The round folder `path`, RUN/round-N, as an absolute path.

    Args:
        where: the option that names it, for messages.

    Raises:
        UserError: it is not one, or the run has no such round.
    """
    at = path.resolve()
    run = RunDir(at.parent)
    if RunDir(at).config.is_file():
        raise UserError(f"{path} is a run, not a round of a run", where=where, do=_name_one(RunDir(at), path))
    if not run.config.is_file():
        raise UserError(f"{path} is not a round of a run", where=where, do="name a folder such as runs/a/round-1")
    for found in run.rounds():
        if found.path == at:
            return found
    raise UserError(f"the run {path.parent} has no {at.name}", where=where, do=_name_one(run, path.parent))


def _name_one(run: RunDir, path: Path) -> str:
    names = some(found.path.name for found in run.rounds())
    return f"name one of its rounds: {path / 'round-N'}" + (f" ({names})" if names else "")


def open_run(path: Path) -> RunDir:
    """The run folder `path`. Raises UserError if it is not one."""
    run = RunDir(path)
    if run.config.is_file():
        return run
    do = "name a folder that icr iterate made"
    if not path.exists():
        do = "check the path: this folder does not exist"
    elif RunDir(path.resolve().parent).config.is_file():
        do = f"this folder is inside a run: name {path.parent}"
    raise UserError(f"{path} is not a run folder", do=do)
