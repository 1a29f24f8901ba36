"""RLOO inside `icr transfer`: a policy for every reward model and target, with the model's scores as its reward.

The target's own reward model scores the held-out samples as well, where the experiment has one: a score that rises
under the source's model and not under the target's is over-optimised.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from icr.base.fields import Fields
from icr.base.files import read_json
from icr.config.rl import RLConfig
from icr.config.transfer import TransferConfig, language_of
from icr.config.transfer_align import TransferRL
from icr.experiments.cells import Cell, Recorded, read_record
from icr.experiments.rl import RESULT, do_rl
from icr.experiments.rl_inputs import RLInputs, describe_rl, name_input
from icr.experiments.transfer_plan import AlignInputs, ModelPlan, policy_cells, policy_of
from icr.experiments.transfer_task import instructions, task_setting
from icr.experiments.transfer_trained import TrainedPolicies
from icr.work.machine import Machine
from icr.work.steps import Step
from loops.rl_spec import DRIVER

ELSEWHERE = {"reward.beta": "align.rl.beta", "template_arguments": "align.template_arguments"}
"""Keys of `icr rl` that are not at `align.rl.KEY`."""


@dataclass(frozen=True)
class Reinforcement:
    """What the cells of RLOO share."""

    config: TransferConfig
    run: Path
    inputs: AlignInputs
    machine: Machine

    @property
    def rl(self) -> TransferRL:
        assert self.config.align is not None and self.config.align.rl is not None
        return self.config.align.rl

    def cells(self, models: Sequence[ModelPlan]) -> list[Cell]:
        """In an order in which they can be done: trainings, answers, verdicts."""
        places = self.config.trained_places(self.rl)
        own = {model.source: model for model in models if model.target is None}
        both = [(model, place) for place in places for model in models if model.serves(language_of(place))]
        return [
            *(self._training(model, place, own.get(language_of(place))) for model, place in both),
            *TrainedPolicies("rl", self.config, self.run, self.inputs, self.machine).cells(both),
        ]

    def _training(self, model: ModelPlan, place: str, own: ModelPlan | None) -> Recorded:
        folder, target = self.run / "steps" / f"rl-{model.source}-{place}", language_of(place)
        scorer = None if own is None or own.name == model.name else own

        def planned() -> tuple[RLConfig, RLInputs]:
            others = {} if scorer is None or _was_without(folder, target) else {target: str(scorer.folder / "model")}
            return self._plan(folder, place, str(model.folder / "model"), others)

        def describe() -> Step:
            step = describe_rl(*planned())
            settings: Fields = {ELSEWHERE.get(key, f"align.rl.{key}"): value for key, value in step.settings.items()}
            return Step(step.name, step.inputs, settings | task_setting(self.config))

        def work(step: Step, machine: Machine) -> Fields:
            return do_rl(folder, *planned(), machine)

        needs = (model.name, *(() if scorer is None else (scorer.name,)), *policy_cells(self.config, place))
        files, holds = ("model", RESULT), f"a policy aligned in {target}"
        return Recorded(folder.name, folder, needs, self.machine, describe, work, files, holds)

    def _plan(self, folder: Path, place: str, reward: str, others: Mapping[str, str]) -> tuple[RLConfig, RLInputs]:
        """The training as `icr rl` has it.

        Args:
            others: name → reward model that scores held-out samples as well.
        """
        rl, align, target = self.rl, self.config.align, language_of(place)
        assert align is not None
        config = RLConfig.model_validate(
            {
                "run": str(folder),
                "policy": policy_of(self.config, place, align.policy or self.config.base),
                "chat_template": align.chat_template,
                "template_arguments": align.template_arguments,
                "max_kl": rl.max_kl,
                "reward": {"model": reward, "beta": rl.beta},
                "prompts": {"path": rl.prompts, "languages": [target], "limit": rl.prompt_limit},
                "sampling": rl.sampling,
                "heldout": {**rl.heldout.model_dump(), "reward_models": others},
                "train": rl.train,
            }
        )
        train, heldout = self.inputs.rl[target]
        policy = policy_of(self.config, place, self.inputs.policy)
        return config, RLInputs(policy, {DRIVER: reward, **others}, train, heldout, instructions(self.config))


def count_rl(config: TransferConfig, rl: TransferRL, inputs: AlignInputs, models: Sequence[ModelPlan]) -> Fields:
    """How much work RLOO is: `rl_trainings`, and the `rl_samples` that they draw, at most: `n` for each prompt of a
    pass, and those that are measured.
    """
    trainings, samples = 0, 0
    for target in map(language_of, config.trained_places(rl)):
        train, heldout = inputs.rl[target]
        drawn = int(len(train) * rl.train.epochs)
        measured = 2 + drawn // rl.train.batch_size // rl.heldout.every  # before the first step, and after the last
        count = sum(model.serves(target) for model in models)
        trainings += count
        samples += count * (drawn * rl.sampling.n + measured * len(heldout) * rl.heldout.samples)
    return {"rl_trainings": trainings, "rl_samples": samples}


def describe_policies(
    steps: Path, sources: Sequence[str], places: Sequence[str], done: Collection[str]
) -> list[Fields]:
    """What the finished trainings say of themselves, on their held-out prompts: a row for each source and place.

    Args:
        steps: RUN/steps.
        places: in the column `target`, see `TransferConfig.places`.
        done: names of the finished cells.
    """
    both = [(source, place) for place in places for source in sources if f"rl-{source}-{place}" in done]
    results = {(source, place): read_json(steps / f"rl-{source}-{place}" / RESULT) for source, place in both}
    return [
        {"source": source, "target": place, **_summarize(result, language_of(place))}
        for (source, place), result in results.items()
    ]


def _summarize(result: Fields, target: str) -> Fields:
    """Of rl.json: steps, by how much the scores have risen, KL, and length and language before and after.

    Returns:
        `rise` under the model that it was trained on, and `rise_by_target` under the target's own, None where that is
        the same or was not there.
    """
    training, first, last = result["training"], result["first"], result["last"]
    row: Fields = {"steps": training["step"], "stopped_by_kl": training["stopped_by_kl"]}
    for key, name in (("rise", DRIVER), ("rise_by_target", target)):
        of = result["rise"].get(name)
        row[key] = of["mean"] if of else None
        row[f"{key}_interval"] = [of["low"], of["high"]] if of and of["low"] is not None else None
    row |= {key: last[key] for key in ("kl", "kl_se", "kl_per_token", "kl_per_token_se")}
    for key in ("length", "right_language"):
        row |= {f"{key}_before": first[key], key: last[key]}
    return row | {"prompts": sum(result["prompts"]["heldout"].values())}


def _was_without(folder: Path, target: str) -> bool:
    """Whether a finished training was measured without the target's own model, which came into the experiment later:
    the policy does not depend on it, so that it is not trained again."""
    record = read_record(folder)
    return record is not None and record.state == "done" and name_input(target) not in record.inputs
