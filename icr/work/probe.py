"""Whether an engine that was given new weights has them: its number for one text has to be a scorer's."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel

from icr.engines.open import EngineSettings
from icr.engines.precision import Precision
from icr.engines.templates import Template
from icr.work.pool import Task

TEXT = (
    "The bakery opens at seven, but Ana is there by four. She weighs the flour, wakes the yeast and waits. "
    "By noon the shelves are half empty; what is left at six goes to the shelter across the street."
)
TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "bf16": 0.05}
"""Nats a token by which two implementations of one model differ at most."""


class Probe(BaseModel, frozen=True):
    """One sequence and the log-probability that the scorer gives it."""

    token_ids: tuple[int, ...]
    logp: float
    """Nats, the sum over all tokens but the first."""

    def agrees(self, logp: float, precision: Precision) -> bool:
        """Whether an engine's number is the scorer's, but for rounding."""
        return abs(logp - self.logp) <= TOLERANCE[precision] * (len(self.token_ids) - 1)


class EngineTask(Task):
    """What a model's engine does. Two tasks with the same `engine` settings are served by one engine."""

    lane: ClassVar[str] = "engine"

    model: str
    template: Template
    stop: tuple[str, ...] = ()
    """`sampling.stop`."""
    engine: EngineSettings
    probe: Probe | None = None
    """Of `model`. The driver sets it once engines have served another model."""


class ProbeTask(Task):
    """In: `text`, one row. Out: its `token_ids` and their `logp` by the scorer."""

    name: ClassVar[str] = "probe"
    lane: ClassVar[str] = "scorer"

    model: str
    template: Template
    precision: Precision
    tokens: int
    """At most this many of the text's, so that an engine's window has room for them."""
