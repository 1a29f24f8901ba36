"""Multilingual benchmarks by one name each: which of lm-eval's tasks they are in which language.

lm-eval cuts some of them into subjects; a language's value is then over the items of all of its subjects, as lm-eval's
own groups weight them (`weight_by_size`). What a language has is read from lm-eval's task files, without lm-eval, its
data or a network.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import langcodes
import yaml

from icr.base.errors import UserError
from icr.config.schema import Nlp
from icr.languages import english_name

SINGLE_LANGUAGES = {
    "ar": "arb", "az": "azj", "fa": "pes", "lv": "lvs", "mg": "plt", "mn": "khk", "ms": "zsm", "ne": "npi", "no": "nob",
    "om": "gaz", "or": "ory", "ps": "pbt", "sq": "als", "sw": "swh", "tl": "tgl", "uz": "uzn",
}  # fmt: skip
"""ISO 639-1 → the ISO 639-3 code of the one language that Belebele has of a macrolanguage."""
BESIDE_NAMES = {"mk": "north_macedonian", "tl": "tagalog"}
"""INCLUDE's names of languages where CLDR has others."""


@dataclass(frozen=True)
class Family:
    """A benchmark that lm-eval has in many languages."""

    name: str
    folder: str
    """Of lm-eval's tasks."""
    file: Callable[[str], str]
    """ISO 639-1 code → the task file of the language, within the folder."""

    @property
    def prefix(self) -> str:
        """Of its tasks' names."""
        return self.name.partition("_native")[0]


def _belebele(lang: str) -> str:
    script = langcodes.Language.get(lang).maximize().script
    code = SINGLE_LANGUAGES.get(lang) or langcodes.Language.get(lang).to_alpha3()
    return f"belebele_{code}_{'Hang' if script == 'Kore' else script}.yaml"


def _include(lang: str) -> str:
    name = BESIDE_NAMES.get(lang) or english_name(lang).lower().replace(" ", "_")
    return f"{name.replace('_', ' ').title()}/_include_base_44_{name}.yaml"


FAMILIES = {
    family.name: family
    for family in (
        Family("mmlu_prox", "mmlu_prox", lambda lang: f"{lang}/_mmlu_prox_{lang}.yaml"),
        Family("mmlu_prox_lite", "mmlu_prox", lambda lang: f"{lang}/_mmlu_prox_lite_{lang}.yaml"),
        Family("include", "include/default", _include),
        Family("global_mmlu", "global_mmlu/default", lambda lang: f"{lang}/_global_mmlu_{lang}.yaml"),
        Family("mgsm", "mgsm/direct", lambda lang: f"mgsm_direct_{lang}.yaml"),
        Family("mgsm_native_cot", "mgsm/native_cot", lambda lang: f"mgsm_native_cot_{lang}.yaml"),
        Family("belebele", "belebele", _belebele),
    )
}


@dataclass(frozen=True)
class Members:
    """A benchmark in one language."""

    name: str
    """lm-eval's, of the task or of the group."""
    tasks: tuple[str, ...]
    """The single tasks."""


def builtin_tasks() -> Path | None:
    """The folder of lm-eval's own tasks; None where it is not installed."""
    spec = importlib.util.find_spec("lm_eval")
    places = list(spec.submodule_search_locations or []) if spec else []
    return Path(places[0]) / "tasks" if places else None


@cache
def find_members(family: str, lang: str) -> Members | None:
    """What lm-eval has of a benchmark in a language; None: nothing, or lm-eval is not installed."""
    folder, of = builtin_tasks(), FAMILIES[family]
    if folder is None:
        return None
    file = folder / of.folder / of.file(lang)
    if not file.is_file():
        return None
    # composed, not constructed: lm-eval's tags name functions, which nobody needs to run here
    top = yaml.compose(file.read_text(encoding="utf-8"))
    assert isinstance(top, yaml.MappingNode), file
    values = {key.value: value for key, value in top.value}
    tasks = values["task"]
    if isinstance(tasks, yaml.SequenceNode):
        return Members(values["group"].value, tuple(task.value for task in tasks.value))
    return Members(tasks.value, (tasks.value,))


def check_families(settings: Nlp, languages: Sequence[str]) -> None:
    """Whether each benchmark that is named has a language of these.

    Raises:
        UserError: one has none; its languages among those of lm-eval are named.
    """
    if builtin_tasks() is None or settings.tasks == "paper":
        return
    for name in settings.tasks:
        if name in FAMILIES and not any(find_members(name, lang) for lang in languages):
            raise UserError(
                f"{name} has none of the languages {', '.join(languages)}",
                where=f"judge.nlp.tasks: {name}",
                do=f"remove it; these benchmarks have some of them: {_others(languages)}",
            )


def _others(languages: Sequence[str]) -> str:
    there = {name: [lang for lang in languages if find_members(name, lang)] for name in FAMILIES}
    return "; ".join(f"{name} ({', '.join(langs)})" for name, langs in there.items() if langs) or "none"
