"""Checks a run's models by their files, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from icr.base.problems import Collector
from icr.config.schema import Config, reward_models
from icr.engines.check import check_model, find_folder
from icr.engines.folders import is_ready
from icr.engines.models import check_same_vocabulary
from icr.rounds.context import Inputs
from loops.checks import check_dropout
from loops.fit import check_trainable


def check_models(config: Config, policy: str | None, reference: str, judges: Sequence[str]) -> None:
    """Check the models whose files are on this machine; `check_materialised` checks the others once they are.

    Args:
        policy, reference, judges: as `icr.engines.folders.locate` gives them; empty where one was not found.

    Raises:
        ConfigError: everything that is wrong.
    """
    found = Collector()
    good = {}
    of_judges = [("judge.model", judge) for judge in judges]
    for key, located in (("models.policy", policy), ("models.reference", reference), *of_judges):
        folder = find_folder(located) if located else None
        if folder is not None:
            before = len(found.problems)
            found.attempt(None, check_model, folder, key)
            if len(found.problems) == before:
                good[key] = folder
    for model in dict.fromkeys(reward_models(config.reward, config.prompts.languages).values()):
        folder = find_folder(model)
        if folder is not None:
            found.attempt(None, check_model, folder, "reward.model", auto_class="AutoModelForSequenceClassification")
    first, second = good.get("models.policy"), good.get("models.reference")
    if first and second:
        found.attempt(None, check_same_vocabulary, str(first), str(second))
    key = "models.policy" if policy else "models.reference"
    if key in good and is_ready(str(good[key])):
        found.attempt(None, check_dropout, str(good[key]), config.train.dropout)
        found.attempt(None, check_trainable, good[key], key, config.train, config.objective)
    found.raise_any()


def check_materialised(config: Config, inputs: Inputs, folders: Mapping[str, str]) -> None:
    """The same checks of models that have only now become folders: hub ids, adapters, .gguf files, language parts.

    Args:
        folders: a model's name in `inputs` → its folder.

    Raises:
        ConfigError: everything that is wrong.
    """
    policy, judges = inputs.policy, list(inputs.judges.values())
    if any(name and name != folders[name] for name in (policy, inputs.reference, *judges)):
        check_models(
            config, folders[policy] if policy else None, folders[inputs.reference], [folders[j] for j in judges]
        )
