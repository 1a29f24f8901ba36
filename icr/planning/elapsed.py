"""How long stages take together, some of which go on beside others."""

from __future__ import annotations

from collections.abc import Iterable

from icr.base.rundir import Stage


def elapse(stages: Iterable[tuple[Stage, float, float]]) -> float:
    """Seconds from the first stage to the end of the last, as `icr.rounds.controller` runs them.

    Args:
        stages: in order, each with its seconds and the share of them, at its end, that goes on beside the stages after
            it. A judge stage waits for the end of what was begun by the one before.
    """
    now = asked = 0.0
    for stage, seconds, beside in stages:
        if stage == "judge":
            now = max(now, asked)
        now += seconds * (1 - beside)
        if beside:
            asked = now + seconds * beside
    return max(now, asked)
