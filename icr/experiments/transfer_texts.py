"""What `look` of `icr transfer` looks at: the experiment's rows and its parallel texts."""

from __future__ import annotations

from pathlib import Path

from eval.reward_models.evaluate import select_rows
from eval.reward_models.look import Look, LookInputs
from eval.reward_models.looked_spaces import read_parallel
from icr.config.transfer import TransferConfig
from icr.engines.folders import locate
from prompts.preferences.make import PreferenceData


def plan_look(config: TransferConfig) -> Look:
    """As `icr rm look` has it, without models."""
    asked = config.look
    assert asked is not None
    return Look(
        models=[],
        data=Path(config.data.preferences) if asked.bow else None,
        split="all",
        parallel=asked.parallel or config.data.prompts if asked.spectrum else None,
        languages=config.languages.targets,
        limit=asked.texts,
        base=config.base if asked.spectrum else None,
        place=asked.states,
        rates=None,
        column="",
        features=None,
    )


def read_texts(config: TransferConfig, data: PreferenceData) -> LookInputs:
    """Rows and texts of every target, without models.

    Args:
        data: what `data.preferences` has.

    Raises:
        ConfigError, UserError: a target has no rows; fewer than two texts are in all targets.
    """
    look, targets = plan_look(config), config.languages.targets
    rows = select_rows(data, "all", targets, "languages.targets") if look.data else []
    texts, left_out = dict[str, list[str]](), 0
    if look.parallel is not None:
        key = "look.parallel" if config.look and config.look.parallel else "data.prompts"
        texts, left_out = read_parallel(look.parallel, targets, look.limit, key)
    base = locate(look.base, "base") if look.base else None
    return LookInputs({}, base, data if look.data else None, rows, texts, left_out, [], {})
