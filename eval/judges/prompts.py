"""What a judge is asked with: icr's own prompts (prompts/judge.yaml), those of such a file, or published ones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from eval.judges.labels import words
from eval.judges.published import read_published, split_name
from eval.judges.wording import BUILT_IN, DO, PAIR, PLACEHOLDER, TURNS, Prompts, Wording
from icr.base.errors import ConfigError, UserError, some
from icr.base.yaml_text import Document, read_yaml
from icr.config.load import make_section
from icr.config.schema import Judge as JudgeConfig
from icr.config.values import Section, Text

OURS = ("language", "fence", "reply")
"""Placeholders of every prompt: the language's name, a word that no text can foresee, and how to answer."""
Label = Annotated[Text, BeforeValidator(lambda value: str(value) if type(value) is int else value)]


class Asked(Section):
    """What all sections of a file of prompts have."""

    reasoning: Literal["none", "first"] = "none"
    """`none`: the judge answers with a label alone. `first`: it may reason, and ends with its label in brackets."""


class PairPrompt(Asked):
    """Two answers to one instruction."""

    labels: Annotated[list[Label], Field(min_length=2, max_length=3)]
    """For the first answer, for the second, and, where the prompt has it, for neither."""
    prompt: Text
    """What the judge is asked; the placeholders below are filled in."""


class GradePrompt(Asked):
    """MT-Bench's two turns, each with and without a reference."""

    labels: Annotated[list[Label], Field(min_length=2)]
    """Whole numbers, the worst grade first, each one more than the one before."""
    turn_1: Text
    """The answer to the first question."""
    turn_1_reference: Text
    """The same, where the question has a reference answer."""
    turn_2: Text
    """The answer to the second question."""
    turn_2_reference: Text
    """The same, where the question has reference answers."""


class PromptFile(Section):
    """A file of judge prompts, a section per benchmark."""

    xalpaca: PairPrompt | None = None
    accuracy: PairPrompt | None = None
    mtbench: GradePrompt | None = None


def find_prompts(config: JudgeConfig, benchmark: str) -> Prompts:
    """What a judge is asked with: the section of `judge.template`, else icr's own.

    Raises:
        ConfigError, UserError: as `read_template`.
    """
    if config.judges:
        return Prompts.join({name: find_prompts(judge, benchmark) for name, judge in config.members.items()})
    own = read_template(config.template) if config.template else {}
    return own.get(benchmark) or built_in()[benchmark]


def read_template(template: str) -> dict[str, Prompts]:
    """The prompts of `judge.template`, FILE or FILE#NAME, by benchmark.

    Raises:
        ConfigError, UserError: as `read_prompts` and `read_published`.
    """
    path, name = split_name(template)
    published = read_published(path, name)
    return read_prompts(path) if published is None else published


@cache
def built_in() -> dict[str, Prompts]:
    """icr's own prompts by benchmark."""
    with as_file(files("prompts").joinpath("judge.yaml")) as path:
        return read_prompts(path, BUILT_IN)


def read_prompts(path: Path, source: str | None = None) -> dict[str, Prompts]:
    """The prompts of a file, by benchmark; those that it does not have are icr's own.

    Raises:
        UserError: the file is not there, or not YAML.
        ConfigError: every problem found, each with its line: keys, labels and placeholders.
    """
    document = read_yaml(path, "the judge's template")
    if not isinstance(document.data, dict) or not document.data:
        raise UserError("the judge's template has no prompt", where=str(path), do=DO)
    found = make_section(PromptFile, document.data, source=path, document=document)
    problems = list(_Check(path, document, path.read_text(encoding="utf-8-sig").splitlines()).problems(found))
    if problems:
        raise ConfigError(problems)
    sections = ((name, getattr(found, name)) for name in PromptFile.model_fields)
    return {name: _prompts(name, section, source or path.name) for name, section in sections if section is not None}


def _prompts(benchmark: str, section: PairPrompt | GradePrompt, source: str) -> Prompts:
    explained, labels = section.reasoning == "first", tuple(section.labels)
    texts = {name: getattr(section, name) for name in _texts(section)}
    return Prompts(
        source, {name: Wording(f"{benchmark}-{name}", text, labels, explained) for name, text in texts.items()}
    )


def _texts(section: PairPrompt | GradePrompt) -> tuple[str, ...]:
    return ("prompt",) if isinstance(section, PairPrompt) else tuple(TURNS)


def check_prompts(config: JudgeConfig) -> None:
    """Whether the judges that a config names can be asked with their templates.

    Raises:
        ConfigError, UserError: as `read_template`; a judge is a class, or cannot reason first as the prompt says; its
            label probabilities are asked for and it reasons first; the judges give grades on different scales.
    """
    for judge in config.each.values():
        _check_one(judge)
    if "mtbench" in config.benchmarks and config.judges:
        scales = {name: find_prompts(judge, "mtbench").labels for name, judge in config.members.items()}
        if len(set(scales.values())) > 1:
            shown = ", ".join(f"{name} {labels[0]} to {labels[-1]}" for name, labels in scales.items())
            raise UserError(f"the judges grade on different scales: {shown}", where="judge.judges",
                            do="give them templates with the same labels")  # fmt: skip


def _check_one(config: JudgeConfig) -> None:
    """Raises ConfigError and UserError as `check_prompts`."""
    asked = [benchmark for benchmark in config.benchmarks if benchmark != "nlp"]
    if config.kind == "openai" and config.preference == "logprobs":
        wordings = [wording for benchmark in asked for wording in find_prompts(config, benchmark).wordings.values()]
        if wordings and all(wording.explained for wording in wordings):
            what = "the judge explains its verdict before the label, so that no label probabilities can be read"
            do = "set it to auto or label, or name a judge.template with reasoning: none"
            raise UserError(what, where="judge.preference: logprobs", do=do)
    if not config.template:
        return
    where = f"judge.template: {config.template}"
    if config.own:
        do = "remove it: a class has its own rule"
        raise UserError("a custom judge does not use a prompt", where=where, do=do)
    own = read_template(config.template)
    if (
        config.kind == "openai"
        and config.system
        and any(wording.system for of in own.values() for wording in of.wordings.values())
    ):
        raise UserError("the prompt already has a system message, and judge.system sets another", where=where,
                        do="remove judge.system")  # fmt: skip
    if split_name(config.template)[1] and asked and not own.keys() & set(asked):
        raise UserError(f"this prompt is for {', '.join(own)}, but the benchmark is {', '.join(asked)}", where=where,
                        do="name another prompt of the file, or remove judge.template")  # fmt: skip
    if config.kind != "local":
        return
    stuck = [name for name, of in own.items() for w in of.wordings.values() if w.explained and "{reply}" not in w.text]
    if stuck:
        raise UserError(
            f"a local judge answers with a label alone, and the prompt of {some(dict.fromkeys(stuck))} asks for "
            "reasoning first",
            where=where,
            do="write {reply} where the prompt says how to answer, or reasoning: none with a prompt for a label alone",
        )


def identify_prompts(config: JudgeConfig, benchmarks: list[str]) -> dict[str, str]:
    """The prompts of `judge.template` by their content, for the keys of steps; none where they are icr's own.

    Raises:
        ConfigError, UserError: as `read_template`.
    """
    own = read_template(config.template) if config.template else {}
    found = {f"judge template of {name}": own[name].identity for name in benchmarks if name in own}
    for judge, one in config.members.items():
        if one.template != config.template:
            named = identify_prompts(one, benchmarks).items()
            found |= {f"{called} for {judge}": identity for called, identity in named}
    return found


@dataclass(frozen=True)
class _Check:
    """Finds what pydantic cannot know, with the line of each."""

    path: Path
    document: Document
    lines: list[str]

    def problems(self, found: PromptFile) -> Iterator[UserError]:
        for name in PromptFile.model_fields:
            section = getattr(found, name)
            if section is not None:
                yield from self._labels(name, section)
                for text in _texts(section):
                    must, may = (PAIR, ()) if text == "prompt" else TURNS[text]
                    yield from self._placeholders((name, text), getattr(section, text), section.labels, must, may)

    def _labels(self, name: str, section: PairPrompt | GradePrompt) -> Iterator[UserError]:
        said = [words(label) for label in section.labels]
        where = self._where((name, "labels"))
        mute = [label for label, own in zip(section.labels, said, strict=True) if not own]
        if mute:
            do = "write letters or numbers"
            yield UserError(f"`{name}.labels`: {some(mute)} cannot be read in an answer", where=where, do=do)
        elif len(set(said)) < len(said):
            twice = [label for label, own in zip(section.labels, said, strict=True) if said.count(own) > 1]
            yield UserError(f"`{name}.labels`: {' and '.join(twice)} are the same in an answer", where=where,
                            do="give each label other letters or numbers")  # fmt: skip
        elif isinstance(section, GradePrompt) and not _is_scale(section.labels):
            yield UserError(f"`{name}.labels` are not grades", where=where,
                            do="write whole numbers that grow by one, such as [1, 2, 3, 4, 5]")  # fmt: skip

    def _placeholders(
        self, keys: tuple[str, str], text: str, labels: list[str], must: tuple[str, ...], may: tuple[str, ...]
    ) -> Iterator[UserError]:
        known = [*must, *may, *OURS, *(f"label_{n}" for n in range(1, len(labels) + 1))]
        used = [(match[2], match.start()) for match in PLACEHOLDER.finditer(text) if match[2]]
        missing = [f"{{{name}}}" for name in must if name not in dict(used)]
        if missing:
            yield UserError(f"`{'.'.join(keys)}` has no {' and no '.join(missing)}", where=self._where(keys),
                            do="write it where that text goes in")  # fmt: skip
        for name, place in dict(reversed(used)).items():
            if name not in known:
                yield UserError(
                    f"`{'.'.join(keys)}`: unknown placeholder {{{name}}}",
                    where=self._where(keys, text.count("\n", 0, place)),
                    do=f"use one of {', '.join(known)}; for these very characters, write {{{{{name}}}}}",
                )

    def _where(self, keys: tuple[str, str], below: int | None = None) -> str:
        """File and line of a key, or of that line of its text, from 0, if the text is a block."""
        line = self.document.lines.get(keys) or self.document.lines.get(keys[:1], 1)
        in_block = re.search(r"\|[-+\d]*\s*(#.*)?$", self.lines[line - 1]) is not None
        return f"{self.path}:{line if below is None or not in_block else line + 1 + below}"


def _is_scale(labels: list[str]) -> bool:
    if not all(label.isascii() and label.isdigit() for label in labels):
        return False
    grades = list(map(int, labels))
    return grades == list(range(grades[0], grades[0] + len(grades)))
