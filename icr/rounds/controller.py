"""Runs the steps of a run: what is done, what is next, and how the run resumes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

from eval.folders import verdicts_folder
from eval.judges.asking import has_failed
from icr.base.errors import IcrError, UserError
from icr.base.files import sweep, write_json
from icr.base.lock import RunLock
from icr.base.rundir import RoundDir, RunDir, Stage, StageRecord, start_date
from icr.config.load import load_config
from icr.config.schema import Config
from icr.engines.open import EngineSettings
from icr.engines.templates import Template
from icr.rounds.benchmarks import follow_benchmarks, with_benchmarks
from icr.rounds.best import is_worse
from icr.rounds.contents import identify_inputs
from icr.rounds.context import Context, Inputs
from icr.rounds.facts import find_versions, summarise
from icr.rounds.leftovers import forget, tidy
from icr.rounds.models import RunModels
from icr.rounds.order import require_earlier
from icr.rounds.plan import RunPlan, asks_endpoints, judges_beside, step_name
from icr.rounds.preflight import check_batch
from icr.rounds.registry import find_stage
from icr.rounds.stages.judge import answer, judge
from icr.rounds.story import explain_stage
from icr.rounds.tracker import Tracker
from icr.rounds.window import bound_window
from icr.work.beside import Beside
from icr.work.devices import check_count, check_memory, find_gpus
from icr.work.machine import Machine
from icr.work.runner import Counts
from icr.work.settings import append_history
from icr.work.steps import Step, adopt, check_finished, recorded, stale, stamp

Borrow = Callable[[Step, RoundDir], Counts | None]
"""Takes over the files of a step that another run has done: its counts, or None where there is none."""


class Controller:
    """Owns one run folder for the life of one command."""

    def __init__(
        self,
        run: RunDir,
        config: Config,
        inputs: Inputs,
        console: Console,
        *,
        borrow: Borrow | None = None,
        measured: Path | None = None,
        date: str | None = None,
        after_stage: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the lock and compare the run's records with the config and the files that it names.

        Args:
            inputs: what `icr.rounds.preflight.preflight` has read for this config.
            borrow: takes over steps that another run has done from the same inputs.
            measured: folder of what several runs measure of the same responses.
            after_stage: called when a stage of this command has ended.
            date: YYYY-MM-DD, when several runs were started; chat templates may write it. Default: the run's own.

        Raises:
            UserError: the folder is in use; a finished step was made from other inputs or with other settings.
        """
        self.run, self.config, self.inputs, self.console = run, config, inputs, console
        run.path.mkdir(parents=True, exist_ok=True)
        self._lock = RunLock(run.lock)
        try:
            sweep(run.path)
            parallel, memory = config.sampling.tensor_parallel, config.sampling.gpu_memory
            self.machine = Machine(run.path, console, [self._lock.fd], parallel, memory, config.cluster)
            self.plan = RunPlan(config, identify_inputs(config, inputs), self._resolve)
            self._settle()
            models, day = config.models, start_date(run.path, date)
            self._template = Template(file=models.chat_template, arguments=models.template_arguments, date=day)
        except BaseException:
            self._lock.release()
            raise
        self._models = RunModels(run, config, inputs, self.plan.contents, self.machine)
        self._prepared = False
        self._borrow, self._measured, self._after_stage = borrow, measured, after_stage
        self._tracker = Tracker(run, config, self.machine.note)

    def close(self) -> None:
        self._tracker.close()
        self.machine.stop()
        self._lock.release()

    def _resolve(self, precision: object) -> str:
        return self.machine.precision(precision)  # type: ignore[arg-type]

    def _settle(self) -> None:
        """Refuse settings and files that do not match finished steps; remove unfinished work that no longer matches."""
        old = self._read_config()
        if self.config.rounds < max((r.number for r in self.run.rounds()), default=0):
            raise UserError(
                f"this run already has {self.run.rounds()[-1].number} rounds, more than {self.config.rounds}",
                where="rounds",
                do="set rounds to that number or more, or use another --run folder",
            )
        steps = {step.name: step for step in self.plan.steps()}
        records: dict[str, StageRecord] = {}
        for at in self.run.rounds():
            for stage, record in at.record.stages.items():
                step = steps.get(step_name(at.number, stage))
                if step is not None:
                    records[step.name] = self._identify(at.number, stage, step, record, old)
        check_finished(steps.values(), records, self.run.config)
        for (number, stage), step in zip(self.plan.stages(), steps.values(), strict=True):
            if (known := records.get(step.name)) is not None:
                self._settle_step(self.run.round(number), stage, step, known)
        append_history(self.run.config, old, self.config, time.strftime("%Y-%m-%d %H:%M:%S"))

    def _identify(self, number: int, stage: Stage, step: Step, record: StageRecord, old: Config) -> StageRecord:
        """The record with a key, a judge's under the benchmarks of now.

        Args:
            old: the config that the run was last used with.
        """

        def earlier(config: Config) -> Step:
            return RunPlan(config, identify_inputs(config, self.inputs), self._resolve).step(number, "judge")

        settings = self.plan.settings(number, stage, old)
        if stage != "judge":
            return adopt(step, record, settings)
        if not record.key:  # its inputs are those of the benchmarks that were judged
            record = adopt(earlier(with_benchmarks(self.config, old.judge.benchmarks)), record, settings)
        return follow_benchmarks(self.config, step, record, earlier)

    def _settle_step(self, at: RoundDir, stage: Stage, step: Step, record: StageRecord) -> None:
        if record.state != "done" and (changes := stale(step, record)):
            self.console.print(f"{step.title} starts over: {'; '.join(changes)}", highlight=False, markup=False)
            forget(at, stage)
            record = stamp(step, record.model_copy(update={"parts": {}}))
        if at.record.stages[stage].key != record.key:  # of an older run, or of other benchmarks
            at.write_stage(stage, record)

    def _read_config(self) -> Config:
        """The config that the run was last used with; this command's own, when it is new."""
        if not self.run.config.exists():
            return self.config
        try:
            return load_config(self.run.config)
        except UserError as error:
            raise UserError(
                f"this run's config cannot be read by this version of icr: {error}",
                where=str(self.run.config),
                do="fix the file, or start a new run from a finished round's model with --from",
            ) from error

    def prepare(self) -> None:
        """Check what config and machine have to agree on, and have workers import what they need. Once a command."""
        if self._prepared:
            return
        self._prepared = True
        check_batch(self.config, self.machine.processes(self.config.train) * self.config.train.nodes)
        check_count(self.config.sampling.tensor_parallel, self.machine.gpus)
        for note in self.inputs.notes:
            self.machine.note_once(note)
        if not self.is_done():
            if self.machine.gpus:
                check_memory(self.config.sampling, find_gpus())
            self.machine.warm(self.config.sampling.backend)

    def iterate(self, beside: Beside | None = None) -> None:
        """Run everything that is not done yet. Where endpoints judge, verdicts come while the next round goes on.

        Args:
            beside: the caller's, who may wait for the verdicts on the last round later.
        """
        self.prepare()
        if beside is None:
            with Beside(self.machine, self.tell) as own:
                self.iterate(own)
            return
        for number, stage in self.plan.stages():
            beside.wait() if stage == "judge" else beside.look()
            if stage == "sample" and self._stops(number):
                return
            self.stage(number, stage, beside)

    def is_done(self) -> bool:
        """Whether every stage of the plan is done."""
        return all(self.run.round(number).done(stage) for number, stage in self.plan.stages())

    def _stops(self, number: int) -> bool:
        """Whether the run ends before round `number`, which has not begun, because the one before is worse."""
        if self.config.stop_when == "never" or self.run.round(number).record.stages:
            return False
        if step := is_worse(self.run, number - 1):
            self.machine.note(f"stopped before round {number} (stop_when: worse): {step.explain()}")
        return step is not None

    def stage(self, number: int, stage: Stage, beside: Beside | None = None) -> None:
        """Run one stage, unless it is done.

        Args:
            beside: may do what needs no worker but one that asks, if the next round does not depend on it.

        Raises:
            UserError: an earlier stage is not done.
        """
        at, step = self.run.round(number), self.plan.step(number, stage)
        if at.done(stage) and not self._reopen(at, stage):
            tidy(at, stage)
            return
        require_earlier(self.run, self.plan, number, stage)
        record = stamp(step, at.start(stage))
        save = partial(at.write_stage, stage, record)
        save()
        self.console.print(f"[bold]round {number} · {stage}[/bold]")
        self.console.print(f"  {explain_stage(self.config, number, stage)}", style="dim", highlight=False, markup=False)
        record.versions = find_versions()
        with ExitStack() as work:
            work.enter_context(recorded(record, save))
            context = replace(self._context(number, step), parts=record.parts, save=save)
            borrowed = self._borrow(step, at) if self._borrow else None
            if beside and borrowed is None and stage == "judge" and asks_endpoints(self.config, number):
                beside.clear()
                borrowed = self._borrow(step, at) if self._borrow else None
                if borrowed is None and (follows := self._find_next(number, beside)):
                    answer(context)
                    self.console.print(f"  the judge is asked while {follows} goes on", style="dim")
                    title = f"round {number}" if judges_beside(self.config, number) else self.run.path.name
                    beside.start(title, partial(self._ask, context, record, work.pop_all(), title))
                    return
            record.counts = find_stage(stage)(context) if borrowed is None else borrowed
        tidy(at, stage)
        self._show_done(record)
        self.tell()

    def _find_next(self, number: int, beside: Beside) -> str:
        """What goes on while an endpoint is asked about a round; nothing, where its verdicts have to come first."""
        if judges_beside(self.config, number):
            return f"round {number + 1}"
        return "the next variant" if beside.outlasts and number == self.config.rounds else ""

    def _ask(self, context: Context, record: StageRecord, work: ExitStack, title: str, machine: Machine) -> None:
        """What is left of a judge stage, in a thread of its own. `work` records how it ends."""
        name = f"{title} · judge"
        try:
            with work:
                record.counts = judge(replace(context, machine=machine), answered=True)
        except IcrError:
            ends = "; this command ends after the stage that it is at"
            self.machine.note(f"{name} failed{ends if context.round.number < self.config.rounds else ''}")
            raise
        tidy(context.round, "judge")
        self._show_done(record, f"{name} ")

    def _show_done(self, record: StageRecord, name: str = "") -> None:
        self.console.print(
            f"  [green]{name}done[/green] in {record.seconds:.0f} s {summarise(record.counts)}", highlight=False
        )

    def tell(self) -> None:
        """Pass on what stages have written."""
        self._tracker.update()
        self._after_stage()

    def _reopen(self, at: RoundDir, stage: Stage) -> bool:
        """Whether a judge stage is unfinished again, as an endpoint may answer now what it did not answer before."""
        if stage != "judge":
            return False
        failed = [name for name in self.config.judge.benchmarks if has_failed(verdicts_folder(at.judge, name))]
        if not failed:
            return False
        self.machine.note(
            f"round {at.number}: questions that the endpoint did not answer are asked again ({', '.join(failed)})"
        )
        record = at.record.stages[stage]
        parts = {name: counts for name, counts in record.parts.items() if name not in failed}
        at.write_stage(stage, record.model_copy(update={"state": "failed", "parts": parts}))
        return True

    def _context(self, number: int, step: Step) -> Context:
        folders = self._models.folders
        names = {"policy": self.inputs.policy or "", "reference": self.inputs.reference}
        reference = folders[names["reference"]]
        first = folders[names["policy"]] if names["policy"] else str(self.run.round(0).model)
        models = [first, *(str(self.run.round(n).model) for n in range(1, number + 1))]
        write_once = self.run.round(0).path / "model.json"
        if not write_once.exists():
            write_json(write_once, {role: self._models.portable(name) for role, name in names.items()})
        window = bound_window(self.config, self.inputs, [reference, *([first] if names["policy"] else [])])
        return Context(
            run=self.run,
            round=self.run.round(number),
            config=self.config,
            inputs=self.inputs,
            step=step,
            policy=models[max(0, number - 1)],
            trained=models[number],
            reference=reference,
            previous=models[number - 2] if number >= 2 else reference,
            judge_models={name: folders[model] for name, model in self.inputs.judges.items()},
            machine=self.machine,
            template=self._template,
            engine=EngineSettings.of(self.config.sampling, window, gpu=self.machine.gpus > 0),
            names=self._models.called(),
            shared=lambda name: self._measured / self.plan.pass_key(number, name) if self._measured else None,
        )
