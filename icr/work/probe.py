"""Whether engine and scorer compute one model: their numbers for one text have to be the same but for rounding.

It is asked at the start of a run, and of every engine that was given new weights.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel

from icr.base.errors import UserError
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
REFUSED = 0.5
"""Nats a token beyond which two numbers cannot be those of one model. What an attention without Gemma-2's soft-capping
makes of it is below that for most texts, so less than this is only said."""


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


class EngineProbeTask(EngineTask):
    """In: `text`, one row. Out: its `token_ids` and their `logp` by the engine."""

    name: ClassVar[str] = "engine-probe"

    tokens: int
    """As of `ProbeTask`."""


class Agreement(BaseModel, frozen=True):
    """What engine and scorer say of one text, in nats."""

    tokens: int
    """That have a probability: all but the first."""
    engine: float
    scorer: float
    apart: float
    """Nats a token."""
    tolerance: float

    @classmethod
    def of(cls, tokens: int, engine: float, scorer: float, precisions: tuple[Precision, Precision]) -> Agreement:
        apart = abs(engine - scorer) / max(1, tokens)
        return cls(
            tokens=tokens, engine=engine, scorer=scorer, apart=apart, tolerance=max(TOLERANCE[p] for p in precisions)
        )

    def describe(self) -> str:
        text = f"on one text engine and scorer are {self.apart:.2g} nats a token apart"
        if self.apart > self.tolerance:
            text += f", more than rounding makes ({self.tolerance:.2g}): what is sampled is not quite what is scored"
        return text

    def check(self, model: str) -> None:
        """Raises UserError where the two cannot be one model."""
        if not self.apart <= REFUSED:
            raise UserError(
                f"engine and scorer do not compute the same model: on one text they are {self.apart:.2f} nats a token "
                "apart",
                where=model,
                do="sample with sampling.backend: transformers, which is slower, or in fp32 (sampling.precision)",
            )
