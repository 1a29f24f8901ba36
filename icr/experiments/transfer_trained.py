"""What policies that `icr transfer` has trained answer to the judged prompts, and verdicts on these answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from eval.reward_models.scoring import short_name
from icr.base.fields import Fields
from icr.config.best_of_n import BestOfNConfig
from icr.config.transfer import TransferConfig, language_of
from icr.experiments.candidates import describe_sampling, sample_candidates
from icr.experiments.cells import Cell, Recorded
from icr.experiments.transfer_candidates import SAMPLING_KEYS, TargetCandidates, write_first
from icr.experiments.transfer_plan import AlignInputs, ModelPlan
from icr.experiments.transfer_task import instruct, keep_inputs
from icr.work.machine import Machine
from icr.work.steps import Step

Method = Literal["dpo", "rl"]
METHODS: tuple[Method, ...] = ("dpo", "rl")
ANSWERS = "answers"
"""In the folder of a trained policy's answers: the same in AlpacaEval's form."""


@dataclass(frozen=True)
class TrainedPolicies:
    """Those of one method, which are in steps/METHOD-SOURCE-TARGET/model."""

    method: Method
    config: TransferConfig
    run: Path
    inputs: AlignInputs
    machine: Machine

    @property
    def candidates(self) -> TargetCandidates:
        """The answers of the policy that they were trained from, which theirs are compared with."""
        return TargetCandidates(self.config, self.run, self.inputs.policy, self.inputs.prompts, self.machine)

    def cells(self, both: Sequence[tuple[ModelPlan, str]]) -> list[Cell]:
        """All answers, then all verdicts.

        Args:
            both: the reward model and the place of every policy.
        """
        return [
            *(self._answers(model, place) for model, place in both),
            *(
                self.candidates.verdicts(
                    judge,
                    self._answers_name(model, place),
                    f"{self.method}-{model.source}-{place}",
                    language_of(place),
                    self._generator(model),
                    ANSWERS,
                )
                for judge in self.inputs.judges
                for model, place in both
            ),
        ]

    def _answers_name(self, model: ModelPlan, place: str) -> str:
        return f"{self.method}-answers-{model.source}-{place}"

    def _generator(self, model: ModelPlan) -> str:
        """What a policy is called in a judge's tables."""
        return f"{short_name(self.inputs.policy)}-{self.method}-by-{model.name}"

    def _answering(self, model: ModelPlan, place: str) -> tuple[BestOfNConfig, str]:
        """How a policy answers the judged prompts, once each, and the folder that it is in."""
        policy = str(self.candidates.folder(f"{self.method}-{model.source}-{place}") / "model")
        config = self.candidates.plan(place)
        once = config.sampling.model_copy(update={"n": 1})
        return config.model_copy(update={"model": policy, "sampling": once}), policy

    def _answers(self, model: ModelPlan, place: str) -> Recorded:
        of, target = self.candidates, language_of(place)
        prompts = self.inputs.prompts[target]
        asked, folder = instruct(self.config, prompts), of.folder(self._answers_name(model, place))

        def describe() -> Step:
            step = describe_sampling(*self._answering(model, place), asked, self.machine)
            return replace(step, elsewhere=SAMPLING_KEYS)

        def work(step: Step, machine: Machine) -> Fields:
            config, policy = self._answering(model, place)
            template = of.template(place)
            counts = sample_candidates(folder, config, policy, asked, template, step.key, machine)
            keep_inputs(self.config, folder / f"{target}.parquet", prompts)
            named = config.model_copy(update={"model": self._generator(model)})
            write_first(folder / ANSWERS / f"{target}.json", folder / f"{target}.parquet", named)
            return counts

        needs = f"{self.method}-{model.source}-{place}", f"samples-{target}"
        files = f"{target}.parquet", f"{ANSWERS}/{target}.json"
        holds = f"answers of a policy aligned in {target}"
        return Recorded(folder.name, folder, needs, self.machine, describe, work, files, holds)
