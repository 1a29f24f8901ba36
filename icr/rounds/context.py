"""What a stage of a round knows: its run, its models, its inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from icr.base.rundir import RoundDir, RunDir
from icr.config.schema import Config
from icr.work.job import Job
from icr.work.runner import Runner
from prompts.load import Prompt


@dataclass(frozen=True)
class Context:
    """One stage of one round of one run."""

    run: RunDir
    round: RoundDir
    config: Config
    inputs: Inputs
    policy: str
    """The policy that the round starts from: π_θ^{t-1}; in round 0, π_θ⁰."""
    trained: str
    """The policy that the round ends with: π_θ^t; in round 0, π_θ⁰."""
    reference: str
    """π_I."""
    previous: str
    """The policy one round earlier: π_θ^{t-2}, and π_I in round 1."""
    judge_model: str | None
    runner: Runner
    shared: Callable[[str], str] = lambda name: ""
    """Where several runs share what is measured of the responses, by the measurement's name; "": nothing is shared."""

    @property
    def languages(self) -> list[str]:
        return self.config.prompts.languages

    def job(self, **values: Any) -> Job:
        return Job(config=self.config, run=str(self.run.path), round=self.round.number, **values)


@dataclass(frozen=True)
class Inputs:
    """What the preflight read on its way: prompts, and models as folders, .gguf files or hub ids."""

    prompts: list[Prompt]
    heldout: list[Prompt]
    alignment: list[dict[str, str]]
    policy: str | None
    reference: str
    judge: str | None
