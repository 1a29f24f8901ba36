"""What finished stages took on a device: kept in one small file, and used in place of assumptions by the next plan.

`rates.json` of the cache folder: device → what was measured of it, and its newest observations. ICR_RATES names another
file; `none`: nothing is kept.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, Field
from scipy.optimize import nnls

from icr.base.content import cache_root
from icr.base.files import write_text
from icr.engines.precision import Precision
from icr.planning.devices import DATE, Device

KEPT = 6
"""Observations of a stage, a model size and a precision."""
SAME = 1.1
"""Factor between two model sizes up to which they count as one."""
NEAR = 4.0
"""Factor up to which a rate is carried over to another size."""
TRUST = {"start": 0.15, "work": 0.05}
"""How strongly the assumed start-up and the assumed speed hold against an observation, whose weight is 1: the speed of
a machine is less known than what starts."""


class Observation(BaseModel):
    """A stage that was done in one go."""

    stage: str
    parameters: int
    precision: Precision
    devices: int = 1
    start: float
    """Seconds of start-ups, as the plan assumes them."""
    work: float
    """Seconds of work, as the plan assumes them."""
    tokens: int
    """That went through the model, or were written."""
    seconds: float
    """That it took."""
    answers: int = 0
    limit: int = 0
    """sample: how many answers, and the most tokens that each could have."""
    benchmark: str = ""
    calls: int = 0
    guessed: int = 0
    """judge: calls of an endpoint, and their prompt tokens as guessed from their texts."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """As the endpoint counted them."""
    table: str = DATE
    """Date of the assumptions; those of another one say nothing about today's."""


class Measured(BaseModel):
    """A processor, as `icr.planning.devices.measure_processor` found it."""

    name: str
    kind: str
    memory: int
    fp32: float
    bf16: float
    bandwidth: float
    source: str


class OfDevice(BaseModel):
    measured: Measured | None = None
    observations: list[Observation] = Field(default_factory=list)


class Rates(BaseModel):
    """The content of rates.json."""

    devices: dict[str, OfDevice] = Field(default_factory=dict)
    problem: str = Field(default="", exclude=True)
    """Why the file could not be read, if it could not."""

    def of(self, device: str) -> OfDevice:
        return self.devices.setdefault(device, OfDevice())

    def processor(self, name: str) -> Device | None:
        """What was measured of a processor."""
        found = self.of(name).measured
        if found is None:
            return None
        return Device(**(found.model_dump() | {"kind": "cpu"}))

    def keep(self, device: Device) -> None:
        """Remember a processor's speed, so that all observations are compared with one and the same."""
        if device.kind == "cpu" and self.of(device.name).measured is None:
            self.of(device.name).measured = Measured(**asdict(device))

    def add(self, device: str, made: Observation) -> None:
        """Add an observation; the oldest of its stage, size and precision goes."""
        all_ = self.of(device).observations
        all_.append(made)
        like = [
            o for o in all_ if (o.stage, o.precision, o.parameters) == (made.stage, made.precision, made.parameters)
        ]
        for old in like[:-KEPT]:
            all_.remove(old)

    def find(self, device: str, stage: str, parameters: int, precision: Precision) -> list[Observation]:
        """Of this stage and precision, in a model of about this size; else of those within a factor of NEAR."""

        def apart(o: Observation) -> float:
            return max(o.parameters / parameters, parameters / o.parameters) if parameters and o.parameters else 1.0

        every = self.devices[device].observations if device in self.devices else []
        found = [o for o in every if o.stage == stage and o.precision == precision and o.table == DATE]
        return [o for o in found if apart(o) <= SAME] or [o for o in found if apart(o) <= NEAR]


@dataclass(frozen=True)
class Factors:
    """What the assumed seconds have to be multiplied by."""

    start: float = 1.0
    work: float = 1.0


def fit(observations: Sequence[Observation]) -> Factors:
    """The factors f, g ≥ 0 that make f·start + g·work closest to what stages took, as shares of what was assumed.

    min Σ ((f·startᵢ + g·workᵢ − secondsᵢ) ÷ (startᵢ + workᵢ))² + 0.15²·(f − 1)² + 0.05²·(g − 1)².
    """
    counted = [(o, o.start + o.work) for o in observations if o.start + o.work > 0]
    rows = [[o.start / assumed, o.work / assumed] for o, assumed in counted]
    rows += [[TRUST["start"], 0.0], [0.0, TRUST["work"]]]
    wanted = [o.seconds / assumed for o, assumed in counted] + [TRUST["start"], TRUST["work"]]
    found, _ = nnls(np.array(rows), np.array(wanted))
    return Factors(float(found[0]), float(found[1]))


def rates_file() -> Path | None:
    """Where rates are kept; None: nowhere."""
    named = os.environ.get("ICR_RATES")
    if named == "none":
        return None
    return Path(named) if named else cache_root() / "rates.json"


def read_rates() -> Rates:
    """What is kept; nothing and the `problem`, where the file cannot be read: the next stage writes it again."""
    file = rates_file()
    if file is None or not file.is_file():
        return Rates()
    try:
        return Rates.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # pydantic's errors are ValueErrors
        return Rates(problem=f"{file} cannot be read ({str(error).splitlines()[0]}); nothing in it is used")


def write_rates(rates: Rates) -> None:
    """Whole or not at all. A cache that cannot be written costs the next plan its rates, and no run its life."""
    file = rates_file()
    if file is None:
        return
    try:
        write_text(file, rates.model_dump_json(indent=1, exclude_defaults=True) + "\n")
    except OSError:
        return
