"""The variants of `icr compare`: one after the other, or side by side on a cluster."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

from icr.base.errors import IcrError, StageFailed, UserError
from icr.base.lock import RunLock
from icr.base.rundir import start_date
from icr.experiments.compare import Variant
from icr.experiments.lending import lend
from icr.rounds.controller import Controller
from icr.rounds.plan import RunPlan
from icr.work.beside import Asking, Threads
from icr.work.display import Bars, NamedConsole
from icr.work.ray_cluster import Nodes, connect
from icr.work.shares import Share, reserve, split_nodes

if TYPE_CHECKING:
    from rich.console import Console


def run_variants(variants: Sequence[Variant], out: Path, console: Console) -> dict[str, IcrError]:
    """Run or resume every variant. A stage that another variant has done from the same inputs is taken over.

    On a cluster with nodes for several variants, what they share is done first, by all nodes. Then each has nodes of
    its own, and they go on side by side.

    Returns:
        What stopped the variants that could not be finished, by name. The others continue.

    Raises:
        UserError: another command is using `out`.
    """
    lock = RunLock(out / ".lock")
    try:
        with ExitStack() as left, Asking() as asking:
            run = _Variants(variants, out, console, asking, left)
            run.do_all()
    finally:
        lock.release()
    if not run.failed:
        shutil.rmtree(out / "measured", ignore_errors=True)
    return {v.name: run.failed[v.name] for v in variants if v.name in run.failed}


@dataclass
class _Variants:
    variants: Sequence[Variant]
    out: Path
    console: Console
    asking: Asking
    left: ExitStack
    """Closes the controllers of variants that are done but for verdicts, which still come."""
    failed: dict[str, IcrError] = field(default_factory=dict)
    _asked: tuple[Variant, Controller] | None = None

    def do_all(self) -> None:
        nodes = find_nodes(self.variants)
        if nodes and self._split(nodes, len(self.variants)):
            self._do_side_by_side(nodes)
            return
        for variant in self.variants:
            self._do(variant)
        self._settle()

    # -- one after the other

    def _do(self, variant: Variant) -> None:
        """Run a variant. Where an endpoint judges its last round, its verdicts may still come when this returns."""
        self.console.print(f"[bold]variant: {variant.name}[/bold]", highlight=False)
        with self._catch(variant), ExitStack() as work:
            controller = self._open(variant, self.console)
            work.callback(controller.close)
            controller.iterate(self.asking, "" if variant is self.variants[-1] else "the next variant")
            if controller.is_asking:
                controller.machine.stop()  # the next variant's workers need the memory
                self._settle()
                self._asked = variant, controller
                self.left.push(work.pop_all())

    def _settle(self) -> None:
        """Wait for the verdicts of a variant before."""
        if self._asked:
            (variant, controller), self._asked = self._asked, None
            with self._catch(variant), self.left.pop_all():
                controller.finish()

    # -- side by side

    def _split(self, nodes: Nodes, runs: int) -> list[Nodes]:
        """As `icr.work.shares.split_nodes`."""
        config = self.variants[0].config
        workers = None if config.cluster.workers == "all" else config.cluster.workers
        each = max(variant.config.train.nodes for variant in self.variants)
        return split_nodes(nodes, self._gpus_each(nodes), workers, runs, each)

    def _gpus_each(self, nodes: Nodes) -> int:
        return self.variants[0].config.sampling.tensor_parallel if nodes.most else 0

    def _do_side_by_side(self, nodes: Nodes) -> None:
        bars, opened = Bars(self.console), list[tuple[Variant, Controller]]()
        for variant in self.variants:
            with self._catch(variant):
                controller = self._open(variant, NamedConsole(self.console, variant.name, bars), alone=False)
                self.left.callback(controller.close)
                opened.append((variant, controller))
        for variant, controller in opened:
            first = count_shared(controller.plan, [other.plan for _, other in opened if other is not controller])
            with self._catch(variant), ExitStack() as work:
                work.callback(controller.machine.stop)
                controller.iterate(self.asking, first=first)
        going = [(variant, controller) for variant, controller in opened if variant.name not in self.failed]
        runs = sum(not controller.is_done() for _, controller in going)
        with reserve(self._split(nodes, runs), self._gpus_each(nodes)) as shares:
            if shares:
                self._share_out(going, shares)
                return
        if runs > 1:
            self.console.print("  note: variants take turns, because not all nodes are free", style="yellow")
        for variant, controller in going:
            with self._catch(variant), ExitStack() as work:
                work.callback(controller.machine.stop)
                controller.iterate(self.asking)

    def _share_out(self, going: Sequence[tuple[Variant, Controller]], shares: Sequence[Share]) -> None:
        """Each variant has a share until it is done; then the next one has it."""
        free: SimpleQueue[Share] = SimpleQueue()
        for share in shares:
            free.put(share)
        nodes = ", ".join(str(len(share.nodes.gpus)) for share in shares)
        self.console.print(f"{len(shares)} variants go on side by side; nodes of each: {nodes}", highlight=False)

        def do(variant: Variant, controller: Controller) -> None:
            share = free.get()
            with self._catch(variant):
                try:
                    controller.machine.confine(share, threads.ended)
                    controller.iterate(self.asking, "the other variants")
                finally:
                    controller.machine.stop()
                    free.put(share)

        with Threads(len(shares)) as threads:
            for one in going:
                threads.give(partial(do, *one))
            threads.finish()
        for variant, controller in going:
            with self._catch(variant):
                controller.finish()

    def _open(self, variant: Variant, console: Console, *, alone: bool = True) -> Controller:
        return Controller(
            variant.run,
            variant.config,
            variant.inputs,
            console,
            borrow=lend({v.name: v.run for v in self.variants if v is not variant}),
            measured=self.out / "measured",
            date=start_date(self.out),
            alone=alone,
        )

    @contextmanager
    def _catch(self, variant: Variant) -> Iterator[None]:
        """Its failure does not stop the others."""
        try:
            yield
        except (UserError, StageFailed) as error:
            self.failed[variant.name] = error
            self.console.print(f"  variant {variant.name} stopped: {error}", style="red", markup=False, highlight=False)


def find_nodes(variants: Sequence[Variant]) -> Nodes | None:
    """The cluster whose nodes variants can have for themselves; None where there is none, or where they take turns: a
    launcher places trainings elsewhere, and nodes without the run folder cannot train.

    Raises:
        UserError: as `icr.work.ray_cluster.connect`.
    """
    config = variants[0].config
    alike = {(v.config.cluster.model_dump_json(), v.config.sampling.tensor_parallel) for v in variants}
    launched = any(variant.config.train.launcher for variant in variants)
    if config.cluster.address is None or config.cluster.models or launched or len(alike) > 1:
        return None
    return connect(config.cluster)


def count_shared(plan: RunPlan, others: Sequence[RunPlan]) -> int:
    """Leading stages of a run that another one has as well, or that measure responses which another one has as well."""
    steps = [step for other in others for step in other.steps()]
    keys, responses = {step.key for step in steps}, {step.inputs.get("responses") for step in steps} - {None}
    shared = takewhile(lambda step: step.key in keys or step.inputs.get("responses") in responses, plan.steps())
    return len(list(shared))
