"""A judge prompt in the one form that all benchmarks ask with, wherever it was read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from icr.base.content import hash_value

PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}|\{(\w+)\}")
"""{name}, or {{name}} for these very characters. Any other brace is a brace."""
BUILT_IN = "icr's own"
DO = "write it as docs/evaluation.md (Other prompts) shows"
PAIR = ("instruction", "first", "second")
TURNS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "turn_1": (("question_1", "answer_1"), ()),
    "turn_1_reference": (("question_1", "answer_1"), ("reference_1",)),
    "turn_2": (("question_2", "answer_2"), ("question_1", "answer_1")),
    "turn_2_reference": (("question_2", "answer_2"), ("question_1", "answer_1", "reference_1", "reference_2")),
}
"""MT-Bench's prompts → the placeholders that each must have, and those that it may have."""


@dataclass(frozen=True)
class Wording:
    """One prompt, and how it is answered."""

    name: str
    text: str
    labels: tuple[str, ...]
    explained: bool
    """The judge may write before it decides."""
    system: str = ""
    """A system message before it; "" for none."""

    @property
    def points(self) -> tuple[float, ...]:
        """What each label of a comparison says for the first answer: a third label is a tie, and half."""
        return (1.0, 0.0, 0.5)[: len(self.labels)]


@dataclass(frozen=True)
class Prompts:
    """The prompts of one benchmark."""

    source: str
    """Where they are from, for people: BUILT_IN, or the file's name, with the prompt's if it has several."""
    wordings: Mapping[str, Wording]
    """By name: `prompt`, or one of TURNS."""
    of: Mapping[str, Prompts] = field(default_factory=dict)
    """Of several judges that are asked with different prompts: each one's. `wordings` are the first one's."""

    @classmethod
    def join(cls, of: Mapping[str, Prompts]) -> Prompts:
        """What several judges are asked with."""
        first = next(iter(of.values()))
        if len({prompts.identity for prompts in of.values()}) == 1:
            return first
        return cls("; ".join(f"{name}: {prompts.source}" for name, prompts in of.items()), first.wordings, of)

    @property
    def one(self) -> Wording:
        """The prompt of a benchmark that has one."""
        return self.wordings["prompt"]

    @property
    def labels(self) -> tuple[str, ...]:
        return next(iter(self.wordings.values())).labels

    @property
    def identity(self) -> str:
        """By content; of icr's own prompts as icr has always named them."""
        if self.of:
            return hash_value({name: prompts.identity for name, prompts in self.of.items()})[:16]
        own = [wording.text for wording in self.wordings.values()]
        if self.source == BUILT_IN:
            return hash_value(own)[:16]
        first = next(iter(self.wordings.values()))
        systems = [wording.system for wording in self.wordings.values()]
        return hash_value([own, list(first.labels), first.explained, *([systems] if any(systems) else [])])[:16]

    def summary(self) -> dict[str, str]:
        """What a summary says of them."""
        return {"template": self.identity, "template_source": self.source}


def quote(text: str) -> str:
    """A text that is to stay as it is, where {name} is a placeholder."""
    return re.sub(r"\{(\w+)\}", r"{{\1}}", text)
