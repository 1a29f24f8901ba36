"""What all parts of a plan are given: the config, what is known of its models and texts, and the devices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from icr.base.rundir import Stage
from icr.config.schema import Config, Train
from icr.engines.precision import Precision, resolve_precision
from icr.planning.devices import Device
from icr.planning.facts import ModelFacts
from icr.planning.texts import OfLanguage, Texts
from icr.rounds.context import Inputs
from icr.rounds.plan import list_stages


@dataclass(frozen=True)
class Setup:
    """One run on so many devices of a kind."""

    config: Config
    inputs: Inputs
    texts: Texts
    policy: ModelFacts
    reference: ModelFacts
    device: Device
    devices: int = 1
    """GPUs; a processor is one device."""
    judge: ModelFacts | None = None
    """The local judge; None where there is none, or its files are not here."""
    classifiers: Mapping[str, ModelFacts] | None = None
    """The reward models by name, as far as their files are here."""
    questions: int = 0
    """Of MT-Bench, in all languages."""

    @property
    def gpu(self) -> bool:
        return self.device.kind == "gpu"

    @property
    def tensor_parallel(self) -> int:
        """GPUs of an engine."""
        return min(self.config.sampling.tensor_parallel, self.devices) if self.gpu else 1

    @property
    def engines(self) -> int:
        return max(1, self.devices // self.tensor_parallel)

    @property
    def train(self) -> Train:
        """With its precision resolved for this device."""
        train = self.config.train
        return train.model_copy(update={"precision": self.precision(train.precision)})

    @property
    def asked_processes(self) -> int:
        """Of a training, on all nodes, as the config and the devices have it."""
        train = self.config.train
        each = (self.devices if self.gpu else 1) if train.processes == "auto" else train.processes
        return each * train.nodes

    @property
    def processes(self) -> int:
        """The most of them among which a batch can be shared out."""
        batch = self.config.train.batch_size * (2 if self.config.objective == "kto" else 1)
        return max(n for n in range(1, self.asked_processes + 1) if batch % n == 0)

    def precision(self, asked: Literal["auto", "fp32", "bf16"]) -> Precision:
        return resolve_precision(asked, gpu=self.gpu)

    @property
    def stages(self) -> list[tuple[int, Stage]]:
        judge = self.config.judge
        aligns = self.config.models.policy is None
        return list_stages(self.config.rounds, aligns=aligns, judges=judge.active, every=judge.every)

    def languages(self) -> Iterator[tuple[str, OfLanguage]]:
        yield from self.texts.prompts.items()
