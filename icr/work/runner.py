"""How a stage gets heavy work done, whoever does it."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from icr.engines.precision import Precision
from icr.work.job import Job

Counts = dict[str, Any]


class Runner(Protocol):
    """How a stage gets heavy work done and speaks to the user."""

    def work(self, job: Job, label: str, *, spread: bool = False, gpus_each: int = 1) -> list[Counts]:
        """Run a job in one worker process, or (`spread`) in as many as the GPUs allow; returns their results."""

    def note(self, text: str) -> None:
        """One line for the user."""

    def precision(self, asked: Literal["auto", "fp32", "bf16"]) -> Precision:
        """`auto` resolved for this machine."""

    def train(self, spec: Any, label: str) -> Counts:
        """Run a `loops.train.TrainSpec` under torchrun; returns its counts."""
