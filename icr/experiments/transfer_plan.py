"""What an experiment of `icr transfer` is made of: its reward models, policies and candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eval.reward_models.look import LookInputs
from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.config.best_of_n import BestOfNConfig
from icr.config.reward_model import RewardModelConfig
from icr.config.schema import Judge
from icr.config.transfer import TransferConfig, TransferModels, language_of
from icr.experiments.cells import Recorded
from icr.experiments.reward_inputs import RewardInputs, check_inputs
from icr.experiments.reward_model import LEAVES, RESULT, do_reward_model
from icr.experiments.training import describe_training
from icr.experiments.transfer_translate import translated_rows
from icr.work.machine import Machine
from icr.work.steps import Step
from prompts.load import Prompt
from prompts.preferences.make import PreferenceData, Rows

MODEL_KEYS = {key: f"reward_model.{key}" for key in TransferModels.model_fields}
"""Keys of `icr rm train` → where an experiment has them."""


@dataclass(frozen=True)
class ModelPlan:
    """A reward model of the experiment."""

    name: str
    """Of its cell: rm-en, rm-de+en, rm-en-to-es."""
    languages: list[str]
    """Of the rows that it is trained on, as people wrote them."""
    config: RewardModelConfig
    target: str | None = None
    """The language that these rows are translated into; it is measured there alone."""

    @property
    def source(self) -> str:
        """Of its row in a matrix."""
        return "+".join(self.languages) + (f"-to-{self.target}" if self.target else "")

    def serves(self, target: str) -> bool:
        """Whether it is measured in a language."""
        return self.target in (None, target)

    @property
    def folder(self) -> Path:
        """Where its training is."""
        return Path(self.config.run or "").resolve()


@dataclass(frozen=True)
class Judging:
    """One of the judges."""

    name: str
    config: Judge
    models: Mapping[str, str]
    """Local judges, located, by the names that the file has for them."""

    @property
    def is_endpoint(self) -> bool:
        """Whether it needs no worker but one that asks."""
        return self.config.kind == "openai"


@dataclass(frozen=True)
class AlignInputs:
    """What best of n needs."""

    policy: str
    """A folder, a hub id or a .gguf file."""
    prompts: Mapping[str, Sequence[Prompt]]
    """By target."""
    judges: Sequence[Judging]
    training: Mapping[str, Sequence[Prompt]]
    """By target, of DPO; empty without it."""
    rl: Mapping[str, tuple[Sequence[Prompt], Sequence[Prompt]]]
    """By target, of RLOO: trained on, and held out; empty without it."""


@dataclass(frozen=True)
class Inputs:
    """What the checks read on their way."""

    data: PreferenceData
    rows: Rows
    """That every model is measured on."""
    models: Mapping[str, RewardInputs]
    """By the name of the cell; of models on translated rows none, as the rows are not there yet."""
    align: AlignInputs | None
    look: LookInputs | None
    """Texts to look at the models with."""


def plan_models(config: TransferConfig) -> list[ModelPlan]:
    """The reward models: those of one language first, then the pooled ones, then those on translated rows."""
    models = [
        ModelPlan(name, languages, _plan_model(config, name, config.data.preferences, languages))
        for languages in [*([code] for code in config.languages.sources), *config.pools]
        for name in [f"rm-{'+'.join(languages)}"]
    ]
    for source, target in config.translated:
        name, rows = f"rm-{source}-to-{target}", translated_rows(config, source, target)
        models.append(ModelPlan(name, [source], _plan_model(config, name, str(rows), [target]), target))
    return models


def _plan_model(config: TransferConfig, name: str, path: str, languages: list[str]) -> RewardModelConfig:
    of = config.reward_model
    return RewardModelConfig.model_validate(
        {
            **of.model_dump(exclude={"train"}),
            "train": of.train.model_dump(exclude_unset=True),
            "run": str(Path(config.run or "") / "steps" / name),
            "base": config.base,
            "data": {"path": path, "languages": languages, **config.data.model_dump(include={"limit", "mix"})},
        }
    )


def policy_cells(config: TransferConfig, place: str) -> tuple[str, ...]:
    """The cell that makes the policy of a place, where it is made."""
    return (f"sft-{place}",) if config.sft else ()


def policy_of(config: TransferConfig, place: str, policy: str) -> str:
    """The policy of a place.

    Args:
        policy: as the file names it.
    """
    return str(Path(config.run or "").resolve() / "steps" / f"sft-{place}" / "model") if config.sft else policy


def plan_candidates(config: TransferConfig, place: str, *, training: bool = False) -> BestOfNConfig:
    """The sampling of one place, as `icr best-of-n` has it; `training`: of the prompts of DPO."""
    align = config.align
    assert align is not None and config.data.prompts is not None
    path, limit = config.data.prompts, config.data.prompt_limit
    if training:
        assert align.dpo is not None
        path, limit = align.dpo.prompts, align.dpo.prompt_limit
    return BestOfNConfig.model_validate(
        {
            "model": policy_of(config, place, align.policy or config.base),
            "prompts": {"path": path, "languages": [language_of(place)], "limit": limit},
            "chat_template": align.chat_template,
            "template_arguments": align.template_arguments,
            "sampling": align.best_of_n.model_dump(exclude={"k"}),
        }
    )


def model_cell(plan: ModelPlan, inputs: RewardInputs | None, machine: Machine, *, clustered: bool) -> Recorded:
    """The cell that trains a reward model.

    Args:
        inputs: None: of rows that are translated first.
        clustered: whether it may train on the nodes of a Ray cluster.
    """

    def checked() -> RewardInputs:
        return inputs or check_inputs(plan.config, clustered=clustered)

    def describe() -> Step:
        return replace(describe_training(plan.config, checked().base), elsewhere=MODEL_KEYS)

    def work(step: Step, machine: Machine) -> Fields:
        return do_reward_model(plan.folder, plan.config, checked(), machine)

    needs = (f"translate-{plan.languages[0]}-{plan.target}",) if plan.target else ()
    files, holds = ("model", RESULT), "a reward model"
    return Recorded(plan.name, plan.folder, needs, machine, describe, work, files, holds, leaves=LEAVES)


def refuse_pattern(only: str, names: Sequence[str]) -> UserError:
    return UserError(f"no step is called {only}", where="--only", do=f"choose from {', '.join(names)}")
