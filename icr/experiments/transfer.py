"""`icr transfer`: which source language serves which target? A reward model a source, measured in every target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, cast

from eval.reward_models.flat import make_csv, without_lists
from eval.reward_models.scoring import Measured, Scorer, measure
from icr.base.errors import IcrError
from icr.base.fields import Fields
from icr.base.files import sweep, write_json, write_text
from icr.base.lock import RunLock
from icr.base.problems import Collector
from icr.base.rundir import start_date
from icr.config.load import dump_config
from icr.config.transfer import SIDE, TransferConfig, language_of, side_of
from icr.experiments.cells import CONFIG, TABLES, Cell, Outcome, list_states
from icr.experiments.reward_model import SCORES
from icr.experiments.transfer_align import Alignment
from icr.experiments.transfer_amounts import count_work
from icr.experiments.transfer_checks import check_experiment
from icr.experiments.transfer_cluster import Work, count_side_by_side, engine_gpus, find_room
from icr.experiments.transfer_dpo import Preference
from icr.experiments.transfer_gains import compare_with_accuracy, describe_gains
from icr.experiments.transfer_look import FOLDER as LOOK
from icr.experiments.transfer_look import look_inside
from icr.experiments.transfer_matrix import compare_variants, make_matrix
from icr.experiments.transfer_plan import Inputs, ModelPlan, model_cell, plan_models, refuse_pattern
from icr.experiments.transfer_rl import Reinforcement, describe_policies
from icr.experiments.transfer_sft import FineTuning, check_fine_tuning
from icr.experiments.transfer_trained import METHODS
from icr.experiments.transfer_translate import Translations
from icr.work.machine import Machine
from prompts.preferences.make import Rows

if TYPE_CHECKING:
    from rich.console import Console

NONE: Fields = {"cells": []}
SIDED = ("variants", "ranks", "score_increase", "best_of_k", "expected_win_rates", "win_rates", "rl")
"""Tables with rows of policies that were fine-tuned on translated demonstrations."""


@dataclass(frozen=True)
class Planned:
    """An experiment that can be run."""

    models: Sequence[ModelPlan]
    inputs: Inputs
    cells: Sequence[Cell]


def plan_transfer(config: TransferConfig, machine: Machine) -> Planned:
    """All cells, in an order in which they can be done. Raises ConfigError: everything that is wrong."""
    assert config.run is not None
    models, inputs = plan_models(config), check_transfer(config)
    cells: list[Cell] = [
        model_cell(model, inputs.models.get(model.name), machine, clustered=config.clustered) for model in models
    ]
    plain = len(config.languages.sources) + len(config.pools)
    cells[plain:plain] = Translations(config, machine).cells()
    if inputs.align is not None:
        made = config, Path(config.run).resolve(), inputs.align, machine
        cells += FineTuning(config, machine).cells() if config.sft else []
        cells += Alignment(*made).cells(models)
        if config.align is not None and config.align.dpo is not None:
            cells += Preference(*made).cells(models)
        if config.align is not None and config.align.rl is not None:
            cells += Reinforcement(*made).cells(models)
    return Planned(models, inputs, cells)


def check_transfer(config: TransferConfig) -> Inputs:
    """Raises ConfigError: everything that is wrong with an experiment."""
    found = Collector()
    inputs = found.attempt(None, check_experiment, config, plan_models(config))
    if config.sft is not None:
        found.attempt(None, check_fine_tuning, config)
    found.raise_any()
    assert inputs is not None
    return inputs


def list_transfer(config: TransferConfig, console: Console) -> tuple[dict[str, str], Fields]:
    """The state of every cell, and how much work the whole experiment is. Nothing is done.

    Returns:
        Name → state, and counts: `translations` that are still to be requested, with `translation_tokens` (at most)
        and `translation_usd`; `trainings` by DPO, and by RLOO `rl_trainings` with `rl_samples` (at most);
        `candidates`, `tokens` (of them, at most) and `questions` to judges (at most); on a cluster its `nodes`, and
        how many steps go on `side_by_side`.

    Raises:
        ConfigError: everything that is wrong.
    """
    machine = make_machine(config, Path(config.run or "").resolve(), console, ())
    plan = plan_transfer(config, machine)
    states = list_states(plan.cells)
    todo = [name for name, state in states.items() if state != "done"]
    counts = count_work(config, plan.models, plan.inputs.align, todo, machine)
    if machine.nodes is not None:
        room = find_room(config)
        sides = len(room.split(count_side_by_side(plan.cells))) if room else 0
        counts |= {"nodes": len(machine.nodes.gpus), "side_by_side": max(1, sides)}
    return states, counts


def make_machine(config: TransferConfig, run: Path, console: Console, keep_fds: Sequence[int]) -> Machine:
    """One for all cells: workers start once."""
    return Machine(run, console, keep_fds, engine_gpus(config), cluster=config.cluster)


def run_transfer(config: TransferConfig, only: str, console: Console) -> tuple[Fields, dict[str, IcrError]]:
    """Do the cells that are not done, measure every model in every target, and write RUN/tables.

    A cell that fails does not stop those that do not need it. The same command goes on with what is missing; a source,
    a pool, a target or a judge that is added to the file runs its new cells alone.

    Args:
        only: a pattern of cells, such as rm-e*; the others are taken as they are.

    Returns:
        What RUN/tables/transfer.json has, and the cells that failed.

    Raises:
        ConfigError, UserError: the experiment cannot be run.
    """
    assert config.run is not None
    run = Path(config.run).resolve()
    run.mkdir(parents=True, exist_ok=True)
    lock = RunLock(run / ".lock")
    sweep(run)
    machine = make_machine(config, run, console, [lock.fd])
    try:
        plan = plan_transfer(config, machine)
        names = [cell.name for cell in plan.cells]
        if not any(fnmatch(name, only) for name in names):
            raise refuse_pattern(only, names)
        write_text(run / CONFIG, dump_config(config, run))

        start_date(run)  # once for all cells
        work = Work(config, run, plan.cells, only, machine, console, [lock.fd])
        outcome = work.do()
        ready = [model for model in plan.models if model.name in outcome.done]
        work.begin("accuracy")
        measured = _measure(plan.inputs, ready, machine, outcome)
        looked: Fields = {}
        if plan.inputs.look is not None:
            work.begin(LOOK)
            looked = look_inside(config, run, plan.inputs.look, ready, machine, outcome)
        result = _describe(config, run, plan, measured, outcome) | ({"look": looked} if looked else {})
        _write_tables(result, run / TABLES)
        return result, outcome.failed
    finally:
        machine.stop()
        lock.release()


def _measure(
    inputs: Inputs, ready: Sequence[ModelPlan], machine: Machine, outcome: Outcome
) -> dict[str, dict[str, Measured]]:
    """Source → target → what was measured. Scores are kept beside each model, with those of its own validation rows,
    so that only what is new is scored."""
    found = {}
    for model in ready:
        place = model.folder / "model"
        scorer = Scorer(machine, str(place), machine.precision("auto"), model.folder / SCORES, model.name)
        try:
            rows = cast(Rows, [row for row in inputs.rows if model.serves(row["lang"])])
            found[model.source] = measure(scorer, inputs.data.kind, rows, inputs.data.train)
        except IcrError as error:
            outcome.failed[f"accuracy of {model.name}"] = error
    return found


def _describe(
    config: TransferConfig, run: Path, plan: Planned, measured: Mapping[str, Mapping[str, Measured]], outcome: Outcome
) -> Fields:
    targets, sources = config.languages.targets, [model.source for model in plan.models]
    result = make_matrix(measured, targets, sources)
    if config.translated:
        by_target = {t: {s: of[t] for s, of in measured.items() if t in of} for t in targets}
        result["variants"] = compare_variants(by_target, config.translated, "accuracy")
    result["failed"] = {name: str(error) for name, error in outcome.failed.items()}
    result["waiting"], result["left"] = outcome.waiting, outcome.left
    if plan.inputs.align is not None:
        judges = [judge.name for judge in plan.inputs.align.judges]
        result |= describe_gains(run / "steps", sources, config.places, judges, outcome.done, config.translated)
        result["places"] = config.places
        result["orders"] = compare_with_accuracy(result)
        if config.align is not None and config.align.rl is not None:
            result["rl"] = describe_policies(run / "steps", sources, config.places, outcome.done)
    return result


def _write_tables(result: Fields, folder: Path) -> None:
    """transfer.json with everything, and a csv of each kind of cell."""
    write_json(folder / "transfer.json", result)
    ranks = [
        {"by": by, "target": target, "source": source, "rank": found["ranks"][source],
         "chance": (found["chances"] or {}).get(source)}
        for by, of in {"accuracy": result, **result.get("judges", {})}.items()
        for target, found in of["targets"].items() for source in found["order"]
    ]  # fmt: skip
    verdicts = [
        (judge, method, found)
        for judge, of in result.get("judges", {}).items()
        for method, found in [("best-of-n", of), *((name, of.get(name, NONE)) for name in METHODS)]
    ]
    rates = [{"judge": judge, "method": method, **cell} for judge, method, found in verdicts for cell in found["cells"]]
    tables = {
        "accuracy": result["cells"],
        "variants": [
            *result.get("variants", []),
            *(
                {"judge": judge, **row}
                for judge, of in result.get("judges", {}).items()
                for row in of.get("variants", [])
            ),
        ],
        "ranks": ranks,
        "score_increase": result.get("increase", []),
        "best_of_k": result.get("best_of_k", []),
        "expected_win_rates": result.get("expected_wins", []),
        "win_rates": rates,
        "rl": result.get("rl", []),
        "demonstrations": [
            {"judge": judge, "method": method, **row}
            for judge, method, found in verdicts
            for row in found.get("demonstrations", [])
        ],
    }
    if any(SIDE in place for place in result.get("places", [])):
        for name in SIDED:
            tables[name] = [_with_side(row) for row in tables[name]]
    for name, rows in tables.items():
        if rows:
            write_text(folder / f"{name}.csv", make_csv([without_lists(row) for row in rows]))


def _with_side(row: Fields) -> Fields:
    """A row of a place with the place's language as its target, and what the policy's demonstrations were."""
    return {**row, "target": language_of(row["target"]), "demonstrations": side_of(row["target"])}
