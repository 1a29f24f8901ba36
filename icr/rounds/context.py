"""What a stage of a round knows: its run, its models, its inputs, and the machine that works for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from icr.base.fields import Fields
from icr.base.rundir import RoundDir, RunDir
from icr.base.shown import show_path
from icr.config.schema import Config
from icr.engines.open import EngineSettings
from icr.engines.templates import Template
from icr.work.machine import Machine
from icr.work.shards import shard_size
from icr.work.steps import Step
from prompts.load import Prompt


@dataclass(frozen=True)
class Inputs:
    """What the preflight read on its way: prompts, and models as folders, .gguf files or hub ids."""

    prompts: list[Prompt]
    heldout: list[Prompt]
    alignment: list[dict[str, str]]
    policy: str | None
    reference: str
    judges: Mapping[str, str]
    """Local judges, by the names that the config has for them."""
    notes: Sequence[str] = ()
    """For the user, before the run begins."""


@dataclass(frozen=True)
class Context:
    """One stage of one round of one run."""

    run: RunDir
    round: RoundDir
    config: Config
    inputs: Inputs
    step: Step
    """What the stage is made from; its key names the folders of what is not finished."""
    policy: str
    """The policy that the round starts from: π_θ^{t-1}; in round 0, π_θ⁰."""
    trained: str
    """The policy that the round ends with: π_θ^t; in round 0, π_θ⁰."""
    reference: str
    """π_I."""
    previous: str
    """The policy one round earlier: π_θ^{t-2}, and π_I in round 1."""
    judge_models: Mapping[str, str]
    """Local judges: as the config names them → folder."""
    machine: Machine
    template: Template
    """Of all that the policies and π_I read in this run."""
    engine: EngineSettings
    """One for all that the policies sample in this run."""
    parts: dict[str, Fields] = field(default_factory=dict)
    """Of a judge stage: benchmark that is done → its counts. The stage adds to it."""
    save: Callable[[], None] = lambda: None
    """Write the stage's record, so that its parts outlive a kill."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Folder of a model that the config names → what it is called."""
    shared: Callable[[str], Path | None] = lambda name: None
    """Where several runs share what is measured of the responses, by the pass's name; None: nothing is shared."""

    @property
    def languages(self) -> list[str]:
        return self.config.prompts.languages

    @property
    def shard_size(self) -> int:
        """Prompts a shard."""
        return shard_size(self.config.sampling.shard_size, self.machine.gpus)

    def name_of(self, model: str) -> str:
        """What records and model cards call a model: `round-1/model`, `org/name@commit`, or a folder's name."""
        return self.names.get(model) or show_path(model, self.run.path)

    def shard_folder(self, base: Path) -> Path:
        """A folder below `base` that no work of other inputs or settings shares."""
        return base / self.step.key[:16]

    def pass_folder(self, name: str) -> Path:
        """Where the shards of one pass over the responses are."""
        return self.shared(name) or self.shard_folder(self.round.rewards / "shards") / name
