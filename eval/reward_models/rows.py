"""What `icr rm eval` and `icr rm bench` measure, a row of their tables each: anything that gives responses a score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from eval.reward_models.scoring import Scorer, TextScorer, locate_reward_model, short_name
from icr.base.content import identify_model
from icr.base.errors import UserError
from icr.base.lock import RunLock
from icr.base.problems import Collector
from icr.engines.precision import Precision
from icr.work.machine import Machine

if TYPE_CHECKING:
    from rich.console import Console

KEY = "MODEL"
Asked = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class Workplace:
    """Where the rows of one command are measured."""

    machine: Machine
    out: Path
    """The folder OUT."""
    precision: Precision
    folders: Mapping[str, str]
    """Of each row's models: as they are located → the folder that is loaded."""


class RewardRow(Protocol):
    """Something that gives responses a score."""

    kind: ClassVar[str]
    """For people: `reward model` or another word for what it is."""

    @property
    def name(self) -> str:
        """For tables and file names."""

    @property
    def models(self) -> Sequence[str]:
        """The models that it needs, located."""

    def open(self, at: Workplace) -> TextScorer:
        """It at work."""


@dataclass(frozen=True)
class ClassifierRow:
    """A reward model: a sequence classifier with one logit."""

    kind: ClassVar[str] = "reward model"
    name: str
    model: str
    """Located."""

    @property
    def models(self) -> Sequence[str]:
        return [self.model]

    def open(self, at: Workplace) -> Scorer:
        folder = at.out / "scores" / identify_model(self.model).replace("/", "_")[:40]
        return Scorer(at.machine, at.folders[self.model], at.precision, folder, self.name)


def name_models(models: Sequence[str]) -> dict[str, str]:
    """Short name → model: the last part of its name; of RUN/model, the run's.

    Raises:
        UserError: two have one name.
    """
    named: dict[str, str] = {}
    for model in models:
        name = short_name(model)
        if name in named:
            raise refuse_twice(name, f"{named[name]}, {model}")
        named[name] = model
    return named


def refuse_twice(name: str, where: str) -> UserError:
    """The error of two rows with one name."""
    do = "give one of them a folder of another name"
    return UserError(f"two models are called {name}", where=where, do=do)


def find_classifiers(models: Sequence[str]) -> list[ClassifierRow]:
    """The rows of reward models.

    Raises:
        ConfigError: everything that is wrong with them.
    """
    found = Collector()
    named = found.attempt({}, name_models, models)
    located = {name: found.attempt("", locate_reward_model, model, KEY) for name, model in named.items()}
    found.raise_any()
    return [ClassifierRow(name, model) for name, model in located.items()]


@contextmanager
def open_workplace(
    rows: Sequence[RewardRow], out: Path, console: Console, precision: Asked = "auto", more: Sequence[str] = ()
) -> Iterator[Workplace]:
    """The folder OUT with its lock, workers, and the models of all rows as folders.

    Args:
        more: located models that others than the rows need.

    Raises:
        UserError: the folder is in use; a model cannot be fetched or converted.
    """
    out.mkdir(parents=True, exist_ok=True)
    lock = RunLock(out / ".lock")
    machine = Machine(out, console, [lock.fd])
    try:
        names = {model for row in rows for model in row.models} | set(more)
        folders = machine.folders(names, None) if names else {}
        yield Workplace(machine, out, machine.precision(precision), folders)
    finally:
        machine.stop()
        lock.release()
