"""Runs the steps of a run: what is done, what is next, and how the run resumes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

from eval.folders import verdicts_folder
from eval.judges.asking import has_failed
from icr.base.errors import IcrError
from icr.base.files import sweep, write_json
from icr.base.lock import RunLock
from icr.base.rundir import RoundDir, RunDir, Stage, StageRecord, start_date
from icr.config.schema import Config
from icr.engines.open import EngineSettings
from icr.engines.templates import Template
from icr.rounds.best import is_worse
from icr.rounds.contents import identify_inputs
from icr.rounds.context import Context, Inputs
from icr.rounds.facts import find_versions, summarise
from icr.rounds.leftovers import tidy
from icr.rounds.models import RunModels
from icr.rounds.order import require_earlier
from icr.rounds.plan import RunPlan, asks_endpoints, judges_beside
from icr.rounds.preflight import check_batch
from icr.rounds.registry import find_stage
from icr.rounds.settle import settle
from icr.rounds.stages.judge import answer, judge
from icr.rounds.story import explain_stage
from icr.rounds.tracker import Tracker
from icr.rounds.window import bound_window
from icr.work.beside import Asking
from icr.work.devices import check_count, check_memory, find_gpus
from icr.work.machine import Machine
from icr.work.runner import Counts
from icr.work.steps import Step, recorded, stamp

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
        alone: bool = True,
        after_stage: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the lock and compare the run's records with the config and the files that it names.

        Args:
            inputs: what `icr.rounds.preflight.preflight` has read for this config.
            borrow: takes over steps that another run has done from the same inputs.
            measured: folder of what several runs measure of the same responses.
            after_stage: called when a stage of this command has ended.
            alone: whether no other run goes on in this process at the same time. Trackers serve one at a time.
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
            settle(run, self.plan, inputs, console)
            models, day = config.models, start_date(run.path, date)
            self._template = Template(file=models.chat_template, arguments=models.template_arguments, date=day)
        except BaseException:
            self._lock.release()
            raise
        self._models = RunModels(run, config, inputs, self.plan.contents, self.machine)
        self._warmed = False
        self._borrow, self._measured, self._after_stage = borrow, measured, after_stage
        self._tracker = Tracker(run, config, self.machine.note, live=alone)
        self._asked: Future[None] | None = None

    def close(self) -> None:
        self._tracker.close()
        self.machine.stop()
        self._lock.release()

    def _resolve(self, precision: object) -> str:
        return self.machine.precision(precision)  # type: ignore[arg-type]

    def _check(self) -> None:
        check_batch(self.config, self.machine.processes(self.config.train) * self.config.train.nodes)
        check_count(self.config.sampling.tensor_parallel, self.machine.gpus)
        for note in self.inputs.notes:
            self.machine.note_once(note)

    def prepare(self) -> None:
        """Check what config and machine have to agree on, and have workers import what they need. Once a command."""
        self._check()
        if not self._warmed and not self.is_done():
            self._warmed = True
            if self.machine.gpus:
                check_memory(self.config.sampling, find_gpus())
            self.machine.warm(self.config.sampling.backend)

    def iterate(self, asking: Asking | None = None, then: str = "", first: int | None = None) -> None:
        """Run everything that is not done yet. Where endpoints judge, verdicts come while the next round goes on.

        Args:
            asking: the caller's, in which another run may ask as well.
            then: what the caller goes on with when this returns, in words: verdicts on the last round may come
                meanwhile, and `finish` waits for them. Without it they are there.
            first: stages, from the beginning of the plan; None: all.
        """
        self.prepare() if first is None else self._check()
        if asking is None:
            with Asking() as own:
                self.iterate(own)
            return
        for number, stage in self.plan.stages()[:first]:
            if stage == "judge" or (self._asked and self._asked.done()):
                self.finish()
            if stage == "sample" and self._stops(number):
                break
            self.stage(number, stage, asking, then)
        if not then:
            self.finish()

    @property
    def is_asking(self) -> bool:
        """Whether verdicts still come."""
        return self._asked is not None

    def finish(self) -> None:
        """Wait for verdicts that still come. Raises what asking for them has failed with."""
        if self._asked:
            asked, self._asked = self._asked, None
            asked.result()
            self.tell()

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

    def stage(self, number: int, stage: Stage, asking: Asking | None = None, then: str = "") -> None:
        """Run one stage, unless it is done.

        Args:
            asking: may do what needs no worker but one that asks, if what comes next does not depend on it.
            then: as of `iterate`.

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
            if asking and borrowed is None and stage == "judge" and asks_endpoints(self.config, number):
                if follows := self._find_next(number, then):
                    answer(context)
                    self.console.print(f"  the judge is asked while {follows} goes on", style="dim")
                    title = f"round {number}" if judges_beside(self.config, number) else self.run.path.name
                    ask = partial(self._ask, context, record, work.pop_all(), title)
                    self._asked = asking.start(self.machine, title, ask)
                    return
                asking.wait()  # one asks at a time, and what is asked about another run may be taken over
                borrowed = self._borrow(step, at) if self._borrow else None
            record.counts = find_stage(stage)(context) if borrowed is None else borrowed
        tidy(at, stage)
        self._show_done(record)
        self.tell()

    def _find_next(self, number: int, then: str) -> str:
        """What goes on while an endpoint is asked about a round; nothing, where its verdicts have to come first."""
        if judges_beside(self.config, number):
            return f"round {number + 1}"
        return then if number == self.config.rounds else ""

    def _ask(self, context: Context, record: StageRecord, work: ExitStack, title: str, machine: Machine) -> None:
        """What is left of a judge stage, in a thread of its own. `work` records how it ends."""
        name = f"{title} · judge"
        try:
            with work:
                borrowed = self._borrow(context.step, context.round) if self._borrow else None  # asked meanwhile
                if borrowed is None:
                    borrowed = judge(replace(context, machine=machine), answered=True)
                record.counts = borrowed
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
