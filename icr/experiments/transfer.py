"""`icr transfer`: which source language serves which target? A reward model a source, measured in every target."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eval.reward_models.evaluate import measure_models, select_rows
from eval.reward_models.scoring import Measured
from icr.base.errors import IcrError, UserError
from icr.base.fields import Fields
from icr.base.files import write_json, write_text
from icr.base.lock import RunLock
from icr.base.problems import Collector
from icr.config.load import dump_config
from icr.config.reward_model import RewardModelConfig
from icr.config.transfer import TransferConfig
from icr.experiments.reward_inputs import RewardInputs, check_inputs
from icr.experiments.reward_model import read_finished, train_reward_model
from icr.experiments.transfer_matrix import make_matrix
from icr.languages import check_languages
from prompts.preferences.make import load_data

if TYPE_CHECKING:
    from rich.console import Console

CONFIG, TABLES = "experiment.yaml", "tables"


@dataclass(frozen=True)
class Cell:
    """A reward model of the experiment."""

    name: str
    """Of its step: rm-en, rm-de+en."""
    languages: list[str]
    config: RewardModelConfig

    @property
    def source(self) -> str:
        return "+".join(self.languages)


def plan_cells(config: TransferConfig) -> list[Cell]:
    """The reward models, those of one language first."""
    assert config.run is not None
    cells = []
    for languages in [*([code] for code in config.languages.sources), *config.languages.pooled]:
        name = f"rm-{'+'.join(languages)}"
        of = config.reward_model
        made = RewardModelConfig.model_validate(
            {
                **of.model_dump(exclude={"train"}),
                "train": of.train.model_dump(exclude_unset=True),
                "run": str(Path(config.run) / "steps" / name),
                "base": config.base,
                "data": {
                    "path": config.data.preferences,
                    "languages": languages,
                    "limit": config.data.limit,
                    "mix": config.data.mix,
                },
            }
        )
        cells.append(Cell(name, languages, made))
    return cells


def check_cells(config: TransferConfig, cells: Sequence[Cell]) -> dict[str, RewardInputs]:
    """Everything that is wrong with the experiment, before anything is trained; name of a cell → its inputs.

    Raises:
        ConfigError: every problem once.
    """
    found, targets = Collector(), config.languages.targets
    found.attempt(None, check_languages, targets, "languages.targets")
    data = found.attempt(None, load_data, Path(config.data.preferences), "data.path")
    if data is not None:
        found.attempt([], select_rows, data, "validation", targets, "languages.targets")
    inputs = {cell.name: found.attempt(None, check_inputs, cell.config) for cell in cells}
    found.raise_any()
    return {name: of_cell for name, of_cell in inputs.items() if of_cell is not None}


def run_transfer(config: TransferConfig, only: str, console: Console) -> tuple[Fields, dict[str, IcrError]]:
    """Train what is missing, measure every model in every target, and write RUN/tables.

    A reward model that fails does not stop the others. The same command goes on with what is missing; a source, a pool
    or a target that is added to the file runs its new cells alone.

    Args:
        only: a pattern of step names, such as rm-e*; the others are taken as they are.

    Returns:
        What RUN/tables/transfer.json has, and the steps that failed.

    Raises:
        ConfigError, UserError: the experiment cannot be run.
    """
    assert config.run is not None
    run, cells = Path(config.run).resolve(), plan_cells(config)
    inputs = check_cells(config, cells)
    chosen = [cell for cell in cells if fnmatch.fnmatch(cell.name, only)]
    if not chosen:
        raise UserError(
            f"no step is called {only}", where="--only", do=f"choose from {', '.join(cell.name for cell in cells)}"
        )
    run.mkdir(parents=True, exist_ok=True)
    lock = RunLock(run / ".lock")
    try:
        write_text(run / CONFIG, dump_config(config, run))
        failed = _train(chosen, console)
        ready = {cell.source: cell for cell in cells if is_trained(cell, inputs[cell.name])}
        measured = _measure(config, run, ready, console) if ready else {}
        result = make_matrix(measured, config.languages.targets, [cell.source for cell in cells])
        result["failed"] = {name: str(error) for name, error in failed.items()}
        write_json(run / TABLES / "transfer.json", result)
        return result, failed
    finally:
        lock.release()


def is_trained(cell: Cell, inputs: RewardInputs) -> bool:
    """Whether its model is finished, from these data and settings: any other one has no place in the matrix."""
    folder = Path(cell.config.run or "").resolve()
    return (folder / "model").is_dir() and read_finished(folder, cell.config, inputs) is not None


def _train(cells: Sequence[Cell], console: Console) -> dict[str, IcrError]:
    failed: dict[str, IcrError] = {}
    for cell in cells:
        console.print(f"[bold]{cell.name}[/bold]", highlight=False)
        try:
            train_reward_model(cell.config, console)
        except IcrError as error:
            failed[cell.name] = error
            console.print(f"  failed: {error}", highlight=False, markup=False)
    return failed


def _measure(
    config: TransferConfig, run: Path, ready: Mapping[str, Cell], console: Console
) -> dict[str, dict[str, Measured]]:
    """Source → target → what was measured. Scores are kept, so that a second command scores what is new alone."""
    console.print("[bold]accuracy[/bold]", highlight=False)
    sources = {cell.name: source for source, cell in ready.items()}
    found = load_data(Path(config.data.preferences), "data.preferences")
    rows = select_rows(found, "validation", config.languages.targets, "languages.targets")
    models = [str(Path(cell.config.run or "") / "model") for cell in ready.values()]
    measured = measure_models(models, found, rows, run / "steps" / "accuracy", console)
    return {sources[name]: of_model for name, of_model in measured.items()}
