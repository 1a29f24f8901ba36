"""A run's config as plain data, so that a run of an older version stays readable."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.yaml_text import read_yaml

if TYPE_CHECKING:
    from icr.base.rundir import RunDir  # brings pyarrow, which a config does not need

RESTORE = "restore the file from a backup, or from the config that the run was started with"
SECTIONS = ("models", "alignment", "prompts", "sampling", "reward", "train", "judge")

LISTS = (("prompts", "languages"), ("judge", "benchmarks"))


def read_config(run: RunDir) -> Fields:
    """The run's resolved config as plain data; {} when there is none yet.

    Plain, not `icr.config.schema.Config`: a run of an older icr must stay readable.

    Raises:
        UserError: the file is not a YAML mapping, or or a key that reports read is not what it has to be.
    """
    if not run.config.exists():
        return {}
    try:
        config = read_yaml(run.config, "the run's config").data
    except UserError as error:
        raise UserError(error.what, where=error.where, do=RESTORE) from error
    if not isinstance(config, dict):
        raise UserError("the run's config is not a YAML mapping", where=str(run.config), do=RESTORE)
    for name in SECTIONS:
        if not isinstance(config.get(name), dict | None):
            raise UserError(f"`{name}` of the run's config is not a section of keys", where=str(run.config), do=RESTORE)
    for name, key in LISTS:
        value = section(config, name).get(key)
        if not isinstance(value, list | None) or not all(isinstance(item, str) for item in value or []):
            what = f"`{name}.{key}` of the run's config is not a list of words"
            raise UserError(what, where=str(run.config), do=RESTORE)
    for key, value in (("rounds", config.get("rounds")), ("judge.every", section(config, "judge").get("every"))):
        if isinstance(value, bool) or not isinstance(value, int | None):
            raise UserError(f"`{key}` of the run's config is not a number", where=str(run.config), do=RESTORE)
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
