"""Which function a stage is."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from icr.base.rundir import Stage
    from icr.rounds.context import Context
    from icr.work.runner import Counts


def find_stage(stage: Stage) -> Callable[[Context], Counts]:
    """The function of that name in icr/rounds/stages; `align` is in train.py. It is imported now, with all it needs."""
    module = import_module(f"icr.rounds.stages.{'train' if stage == 'align' else stage}")
    return cast("Callable[[Context], Counts]", getattr(module, stage))
