"""Which steps a run has, what each is made from, and in which order: the graph of the loop.

A step's key covers all that its result depends on (`icr.work.steps`). What a round begins with is the key of the round
before, so one changed prompt or setting is known everywhere it matters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast, get_args

from icr.base.content import hash_value
from icr.base.rundir import Stage
from icr.config.schema import Config
from icr.work.settings import settings_of
from icr.work.steps import Step

STAGES: tuple[Stage, ...] = get_args(Stage)
PRECISIONS = ("sampling.precision", "reward.precision", "train.precision")
"""Settings that count by what they mean on this machine: `auto` and what it resolves to are one."""


def list_stages(rounds: int, *, aligns: bool, judges: bool, every: int) -> list[tuple[int, Stage]]:
    """All (round, stage) of a run, in order.

    Args:
        aligns: whether π_θ⁰ is made by the run.
        judges, every: whether rounds are judged, and every how many; round 0 and the last one in any case.
    """
    found: list[tuple[int, Stage]] = [(0, "align")] if aligns else []
    for number in range(rounds + 1):
        if number:
            found += [(number, stage) for stage in ("sample", "score", "pair", "train")]
        if judges and (number % every == 0 or number == rounds):
            found.append((number, "judge"))
    return found


def asks_endpoints(config: Config, number: int) -> bool:
    """Whether endpoints, and nobody else, are asked about this round's policy."""
    judge = config.judge
    compared = number > 0 or judge.baseline != "round-0"
    asked = "mtbench" in judge.benchmarks or (compared and set(judge.benchmarks) != {"nlp"})
    return asked and all(one.kind == "openai" for one in judge.each.values())


def judges_beside(config: Config, number: int) -> bool:
    """Whether a round's policy is judged while the next round goes on, which does not depend on the verdicts."""
    return number < config.rounds and config.stop_when == "never" and asks_endpoints(config, number)


@dataclass(frozen=True)
class RunPlan:
    """The steps of one run."""

    config: Config
    contents: Mapping[str, str]
    """Input → what it is, by content; see `icr.rounds.contents`."""
    precision: Callable[[object], str] = str
    """Resolves `auto`."""
    _made: dict[tuple[int, Stage], Step] = field(default_factory=dict, compare=False)

    def stages(self) -> list[tuple[int, Stage]]:
        judge = self.config.judge
        aligns = self.config.models.policy is None
        return list_stages(self.config.rounds, aligns=aligns, judges=judge.active, every=judge.every)

    def steps(self) -> list[Step]:
        return [self.step(number, stage) for number, stage in self.stages()]

    def step(self, number: int, stage: Stage) -> Step:
        """One stage of one round as a step."""
        if (number, stage) not in self._made:
            inputs, settings = self._inputs(number, stage), self.settings(number, stage, self.config)
            self._made[number, stage] = Step(step_name(number, stage), inputs, settings)
        return self._made[number, stage]

    def settings(self, number: int, stage: Stage, config: Config) -> dict[str, object]:
        """What of a config the step's result depends on."""
        found = settings_of(config, stage)
        found |= {key: self.precision(found[key]) for key in PRECISIONS if key in found}
        # the noise of a round's responses is its own; round 0's answers are the baseline and are not compared
        return {**found, "round": number} if stage == "sample" or (stage == "judge" and number == 0) else found

    def _inputs(self, number: int, stage: Stage) -> dict[str, str]:
        match stage:
            case "align":
                return {"reference": self.contents["reference"], **self._named("English pairs", "chat template")}
            case "sample":
                return {"policy": self.policy(number - 1), **self._named("prompts in", "chat template")}
            case "score":
                made = {"responses": self.step(number, "sample").key, "policy": self.policy(number - 1)}
                return {**made, "reference": self.reference(number), **self._named("reward")}
            case "pair":
                return {"rewards": self.step(number, "score").key}
            case "train":
                made = {"pairs": self.step(number, "pair").key, "policy": self.policy(number - 1)}
                return {**made, **self._named("objective")}
            case "judge":
                return self._judge_inputs(number)

    def _judge_inputs(self, number: int) -> dict[str, str]:
        judge = self.config.judge
        made = {"policy": self.policy(number), **self._named("held-out", "judge", "MT-Bench", "NLP", "chat template")}
        if number and "xalpaca" in judge.benchmarks and judge.baseline == "round-0":
            made["answers of round 0"] = self.step(0, "judge").key
        if number and "accuracy" in judge.benchmarks:
            made["pairs"] = self.step(number, "pair").key
        return made

    def policy(self, number: int) -> str:
        """π_θ^number, by the key of the step that makes it, or by its content."""
        if number > 0:
            return self.step(number, "train").key
        return self.contents["policy"] if self.config.models.policy else self.step(0, "align").key

    def reference(self, number: int) -> str:
        """π_ref of the reward in round `number`."""
        if self.config.reward.reference == "previous" and number > 1:
            return self.policy(number - 2)
        return self.contents["reference"]

    def pass_key(self, number: int, name: str) -> str:
        """One pass over a round's responses, equal in two runs exactly when it measures the same."""
        step = self.step(number, "score")
        by = {"policy": self.policy(number - 1), "reference": self.reference(number)}.get(name.removesuffix("-fp32"))
        # which prompts are checked in fp32 decides what is in a shard
        checked = self.config.reward.flip_check if name.endswith("-fp32") else None
        settings = [step.settings.get("reward.kind"), step.settings.get("reward.precision"), checked]
        # a translation is the policy's, also where the reference scores it
        made_by = self.policy(number - 1) if self.config.reward.kind == "translate" else None
        return hash_value([step.inputs["responses"], name, by, settings, self._named("reward"), made_by])

    def _named(self, *beginnings: str) -> dict[str, str]:
        return {name: value for name, value in self.contents.items() if name.startswith(beginnings)}


def step_name(number: int, stage: str) -> str:
    return f"round-{number}/{stage}"


def parse_step(name: str) -> tuple[int, Stage]:
    """(round, stage) of a step of a run."""
    owner, _, stage = name.partition("/")
    return int(owner.removeprefix("round-")), cast(Stage, stage)
