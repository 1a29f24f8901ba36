"""A run's config as plain data, so that a run of an older version stays readable."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import yaml

from icr.base.errors import UserError
from icr.base.fields import Fields

if TYPE_CHECKING:
    from icr.base.rundir import RunDir  # brings pyarrow, which a config does not need


def read_config(run: RunDir) -> Fields:
    """The run's resolved config as plain data; {} when there is none yet.

    Plain, not `icr.config.schema.Config`: a run of an older icr must stay readable.

    Raises:
        UserError: the file is not a YAML mapping.
    """
    if not run.config.exists():
        return {}
    try:
        config = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        config = error
    if not isinstance(config, dict):
        raise UserError(
            "the run's config is not a YAML mapping" + (f": {config}" if isinstance(config, Exception) else ""),
            where=str(run.config),
            do="restore the file from a backup, or from the config that the run was started with",
        )
    return config


def section(config: Fields, name: str) -> Fields:
    """A section of a plain config; {} when it is absent or null."""
    return config.get(name) or {}


def has_xalpaca(config: Fields) -> bool:
    """Whether a plain config's run judges X-AlpacaEval: yes, unless other benchmarks are named."""
    return "xalpaca" in section(config, "judge").get("benchmarks", ["xalpaca"])


def ordered_languages(config: Fields, found: Iterable[str]) -> list[str]:
    """The config's languages in its order, then others that are in the run folder."""
    wanted = list(section(config, "prompts").get("languages") or [])
    return wanted + sorted(set(found) - set(wanted))
