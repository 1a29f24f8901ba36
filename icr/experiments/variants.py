"""The variants of `icr compare`, one after the other; an endpoint judges one's last round while the next goes on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from icr.base.errors import IcrError, StageFailed, UserError
from icr.base.rundir import start_date
from icr.experiments.compare import Variant
from icr.experiments.lending import lend
from icr.rounds.controller import Controller
from icr.work.beside import Asking

if TYPE_CHECKING:
    from rich.console import Console


def run_variants(variants: Sequence[Variant], out: Path, console: Console) -> dict[str, IcrError]:
    """Run or resume every variant. A stage that another variant has done from the same inputs is taken over.

    Returns:
        What stopped the variants that could not be finished, by name. The others continue.
    """
    with ExitStack() as left, Asking() as asking:
        run = _Variants(variants, out, console, asking, left)
        for variant in variants:
            run.do(variant)
        run.settle()
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
    """Closes the controller of the variant that is done but for verdicts, which still come."""
    failed: dict[str, IcrError] = field(default_factory=dict)
    _asked: tuple[Variant, Controller] | None = None

    def do(self, variant: Variant) -> None:
        """Run a variant. Where an endpoint judges its last round, its verdicts may still come when this returns."""
        self.console.print(f"[bold]variant: {variant.name}[/bold]", highlight=False)
        with self._catch(variant), ExitStack() as work:
            controller = self._open(variant)
            work.callback(controller.close)
            controller.iterate(self.asking, "" if variant is self.variants[-1] else "the next variant")
            if controller.is_asking:
                controller.machine.stop()  # the next variant's workers need the memory
                self.settle()
                self._asked = variant, controller
                self.left.push(work.pop_all())

    def settle(self) -> None:
        """Wait for the verdicts of a variant before."""
        if self._asked:
            (variant, controller), self._asked = self._asked, None
            with self._catch(variant), self.left.pop_all():
                controller.finish()

    @contextmanager
    def _catch(self, variant: Variant) -> Iterator[None]:
        """Its failure does not stop the others."""
        try:
            yield
        except (UserError, StageFailed) as error:
            self.failed[variant.name] = error
            self.console.print(f"  variant {variant.name} stopped: {error}", style="red", markup=False, highlight=False)

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
