"""The plan at the start of `icr iterate`: one line, a refusal of what cannot fit, and rates for the next plan."""

from __future__ import annotations

from collections.abc import Callable

from icr.base.errors import UserError
from icr.base.rundir import RunDir
from icr.config.schema import Config
from icr.planning.plan import check_plan, know, make_plan
from icr.planning.record import Recorder
from icr.planning.sources import describe_plan
from icr.rounds.context import Inputs
from icr.rounds.plan import list_stages


class Start:
    """The plan of one command. What goes wrong with it is said and never ends a run, but for what cannot fit."""

    def __init__(self, run: RunDir, config: Config, inputs: Inputs, say: Callable[[str], None]) -> None:
        """Say the plan of what is left; nothing, where nothing is left.

        Args:
            say: shows the user a line.

        Raises:
            UserError: weights are larger than the memory, or models than the disk.
        """
        self._run, self._config, self._inputs, self._say = run, config, inputs, say
        self._recorder: Recorder | None = None
        self._fresh, self._told = self._is_fresh(), False
        if not self._is_left():
            return
        try:
            known = know(config, inputs, run)
            cost = make_plan(known)
        except Exception as error:  # an estimate that fails, in whatever way, must not end what it estimates
            say(f"plan: not known yet, as {error.what if isinstance(error, UserError) else repr(error)}")
            return
        check_plan(cost, run.path)
        say(describe_plan(cost))
        self._recorder = Recorder(run, known)

    def _is_left(self) -> bool:
        judge, aligns = self._config.judge, self._config.models.policy is None
        every = list_stages(self._config.rounds, aligns=aligns, judges=judge.active, every=judge.every)
        return not all(self._run.round(number).done(stage) for number, stage in every)

    def _is_fresh(self) -> bool:
        return not any(at.record.stages for at in self._run.rounds())

    def update(self) -> None:
        """Keep what the stage that has just ended took."""
        try:
            if self._recorder is None:  # the models were not here when the command began
                self._recorder = Recorder(self._run, know(self._config, self._inputs, self._run), fresh=self._fresh)
            self._recorder.update()
        except Exception as error:  # nor must the keeping of rates
            if not self._told:
                self._say(f"note: what stages take could not be kept for later plans: {error}")
                self._told = True
