"""The variants of `icr compare`, one after the other; an endpoint judges one's last round while the next goes on."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from icr.base.errors import IcrError, StageFailed, UserError
from icr.base.rundir import start_date
from icr.experiments.compare import Variant
from icr.experiments.lending import lend
from icr.rounds.controller import Controller
from icr.work.beside import Beside

if TYPE_CHECKING:
    from rich.console import Console


def run_variants(variants: Sequence[Variant], out: Path, console: Console) -> dict[str, IcrError]:
    """Run or resume every variant. A stage that another variant has done from the same inputs is taken over.

    Returns:
        What stopped the variants that could not be finished, by name. The others continue.
    """
    with _Variants(variants, out, console) as run:
        for variant in variants:
            run.do(variant)
    if not run.failed:
        shutil.rmtree(out / "measured", ignore_errors=True)
    return run.failed


@dataclass(frozen=True)
class _Asked:
    """A variant that is done but for verdicts, which still come."""

    variant: Variant
    beside: Beside
    open: ExitStack
    """Its controller, which holds the lock of its run folder."""


@dataclass
class _Variants:
    variants: Sequence[Variant]
    out: Path
    console: Console
    failed: dict[str, IcrError] = field(default_factory=dict)
    _asked: _Asked | None = None

    def __enter__(self) -> _Variants:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is None:
            self._settle()
        elif self._asked:
            self._asked.open.__exit__(kind, error, tb)

    def do(self, variant: Variant) -> None:
        """Run a variant. Where an endpoint judges its last round, its verdicts may still come when this returns."""
        self.console.print(f"[bold]variant: {variant.name}[/bold]", highlight=False)
        try:
            with ExitStack() as work:
                controller = self._open(variant)
                work.callback(controller.close)
                last = variant is self.variants[-1]
                beside = Beside(controller.machine, controller.tell, self._settle, outlasts=not last)
                work.enter_context(beside)
                controller.iterate(beside)
                if beside.is_asking:
                    controller.machine.stop()  # the next variant's workers need the memory
                    self._asked = _Asked(variant, beside, work.pop_all())
        except (UserError, StageFailed) as error:
            self._fail(variant, error)

    def _open(self, variant: Variant) -> Controller:
        return Controller(
            variant.run,
            variant.config,
            variant.inputs,
            self.console,
            borrow=lend({v.name: v.run for v in self.variants if v is not variant}),
            measured=self.out / "measured",
            date=start_date(self.out),
        )

    def _settle(self) -> None:
        """Wait for the verdicts of a variant before."""
        if self._asked:
            asked, self._asked = self._asked, None
            try:
                with asked.open:
                    asked.beside.wait()
            except (UserError, StageFailed) as error:
                self._fail(asked.variant, error)

    def _fail(self, variant: Variant, error: IcrError) -> None:
        self.failed[variant.name] = error
        self.console.print(f"  variant {variant.name} stopped: {error}", style="red", markup=False, highlight=False)
