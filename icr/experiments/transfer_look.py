"""`look` of `icr transfer`: the words that the reward models' scores hang on, and their spaces of languages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from eval.reward_models.look import LookInputs, look_with
from icr.base.errors import IcrError
from icr.base.fields import Fields
from icr.config.transfer import TransferConfig
from icr.experiments.cells import Outcome
from icr.experiments.transfer_plan import ModelPlan
from icr.experiments.transfer_texts import plan_look
from icr.work.machine import Machine

FOLDER = "look"
"""RUN/look: the tables, and what they were made from, so that a second command does what is new alone."""


def look_inside(
    config: TransferConfig,
    run: Path,
    texts: LookInputs,
    ready: Sequence[ModelPlan],
    machine: Machine,
    outcome: Outcome,
) -> Fields:
    """The tables of `icr rm look` for the models of sources and pools: one on translated rows is for one target alone.

    Returns:
        Empty without models. A failure is kept in `outcome`.
    """
    models = {model.name: str(model.folder / "model") for model in ready if model.target is None}
    if not models:
        return {}
    try:
        return look_with(machine, plan_look(config), replace(texts, models=models), run / FOLDER)
    except IcrError as error:
        outcome.failed[FOLDER] = error
        return {}
