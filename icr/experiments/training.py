"""A training that is a command's whole work: once in its folder, with its record, from where it was killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from icr.base.content import hash_file, identify_model
from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.files import read_json, sweep
from icr.base.lock import RunLock
from icr.config.load import flatten
from icr.config.reward_model import RewardModelConfig
from icr.config.schema import Train
from icr.config.sft import SftConfig
from icr.experiments.cells import Recorded
from icr.work.machine import Machine
from icr.work.settings import OPERATIONAL, USES
from icr.work.steps import Step
from loops.data import Split
from prompts.preferences.make import TRAIN, VALIDATION

if TYPE_CHECKING:
    from rich.console import Console

INPUTS = ("run", "base", "chat_template", "data.path")
"""Keys that name an input of a training on preference data, which is known by its content."""


def train_once(
    run: Path,
    console: Console,
    describe: Callable[[], Step],
    work: Callable[[Machine], Fields],
    result: str,
    leaves: tuple[str, ...],
) -> Fields:
    """Train, go on with the training, or read what a finished one has left.

    Args:
        run: the folder of everything; the model is in `run`/model.
        describe: what the training is made from.
        work: trains, writes `run`/`result`, and returns the counts.
        leaves: what a training leaves in `run`.

    Returns:
        What `run`/`result` has.

    Raises:
        UserError: the folder is in use, or holds a training of other data or with other settings.
        StageFailed: a worker or the training failed.
    """
    lock = RunLock(run / ".lock")
    sweep(run)
    machine = Machine(run, console, [lock.fd])

    def do(step: Step, machine: Machine) -> Fields:
        return work(machine)

    cell = Recorded(run.name, run, (), machine, describe, do, ("model", result), "a training", leaves=leaves)
    try:
        if not cell.done():
            cell.do(machine.note)
        found: Fields = read_json(run / result)
        return found
    finally:
        machine.stop()
        lock.release()


def describe_training(config: RewardModelConfig | SftConfig, base: str) -> Step:
    """A training on `data.path` as a step: what its result depends on. `base`: located."""
    data = Path(config.data.path)
    named = {"base": identify_model(base)}
    named |= {"training data": hash_file(data / TRAIN), "validation data": hash_file(data / VALIDATION)}
    if config.chat_template:
        named["chat template"] = hash_file(Path(config.chat_template))
    settings = {key: value for key, value in flatten(config).items() if key not in INPUTS and not may_change(key)}
    return Step("train", named, settings)


def may_change(key: str) -> bool:
    """Whether a key of the config may change at any restart: the result does not depend on it."""
    return USES.get(key) == (OPERATIONAL,) if key.startswith("train.") else False


def check_batch(train: Train, rows: int, *, clustered: bool = False) -> None:
    """Raises UserError where a batch of so many rows is not a whole number of micro-batches on the processes, as far as
    their number is known, and for several nodes without a launcher.

    Args:
        clustered: whether the nodes are those of a Ray cluster, which needs no launcher.
    """
    if train.nodes > 1 and not train.launcher and not clustered:
        raise UserError(
            f"the command that starts the training on {train.nodes} nodes is missing",
            where="train.launcher",
            do="set the command that starts a program once on each node, such as srun --ntasks-per-node=1",
        )
    micro = 1 if train.micro_batch_size == "auto" else train.micro_batch_size
    processes = 1 if train.processes == "auto" else train.processes
    Split(rows, micro, processes * train.nodes).accumulation()
