"""What an experiment of `icr transfer` is made of, and everything that is wrong with it before anything is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.judges.open import check_judge, locate_judges
from eval.judges.prompts import check_prompts
from eval.reward_models.evaluate import select_rows
from eval.reward_models.scoring import short_name
from icr.base.errors import UserError
from icr.base.problems import Collector
from icr.config.best_of_n import BestOfNConfig
from icr.config.reward_model import RewardModelConfig
from icr.config.schema import Judge
from icr.config.transfer import TransferConfig
from icr.engines.check import check_located
from icr.engines.folders import locate
from icr.experiments.cells import Note
from icr.experiments.reward_inputs import RewardInputs, check_inputs
from icr.experiments.reward_model import read_finished, train_on
from icr.languages import check_languages
from icr.work.machine import Machine
from prompts.load import Prompt, load_prompts
from prompts.preferences.make import PreferenceData, Rows, load_data


@dataclass(frozen=True)
class ModelPlan:
    """A reward model of the experiment."""

    name: str
    """Of its cell: rm-en, rm-de+en."""
    languages: list[str]
    config: RewardModelConfig

    @property
    def source(self) -> str:
        return "+".join(self.languages)

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


@dataclass(frozen=True)
class AlignInputs:
    """What best of n needs."""

    policy: str
    """A folder, a hub id or a .gguf file."""
    prompts: Mapping[str, Sequence[Prompt]]
    """By target."""
    judges: Sequence[Judging]


@dataclass(frozen=True)
class Inputs:
    """What the checks read on their way."""

    data: PreferenceData
    rows: Rows
    """That every model is measured on."""
    models: Mapping[str, RewardInputs]
    """By the name of the cell."""
    align: AlignInputs | None


def plan_models(config: TransferConfig) -> list[ModelPlan]:
    """The reward models, those of one language first."""
    assert config.run is not None
    models, of = [], config.reward_model
    for languages in [*([code] for code in config.languages.sources), *config.languages.pooled]:
        name = f"rm-{'+'.join(languages)}"
        data = config.data.model_dump(include={"limit", "mix"})
        made = RewardModelConfig.model_validate(
            {
                **of.model_dump(exclude={"train"}),
                "train": of.train.model_dump(exclude_unset=True),
                "run": str(Path(config.run) / "steps" / name),
                "base": config.base,
                "data": {"path": config.data.preferences, "languages": languages, **data},
            }
        )
        models.append(ModelPlan(name, languages, made))
    return models


def check_experiment(config: TransferConfig, models: Sequence[ModelPlan]) -> Inputs:
    """Everything that is wrong with the experiment, before anything is done.

    Raises:
        ConfigError: every problem once.
    """
    found, targets = Collector(), config.languages.targets
    found.attempt(None, check_languages, targets, "languages.targets")
    data = found.attempt(None, load_data, Path(config.data.preferences), "data.path")
    rows: Rows = []
    if data is not None:
        rows = found.attempt(rows, select_rows, data, "validation", targets, "languages.targets")
    inputs = {model.name: found.attempt(None, check_inputs, model.config, data) for model in models}
    align = found.attempt(None, _check_align, config) if config.align is not None else None
    found.raise_any()
    assert data is not None
    known = {name: of_model for name, of_model in inputs.items() if of_model is not None}
    return Inputs(data, rows, known, align)


def _check_align(config: TransferConfig) -> AlignInputs:
    """Policy, prompts and judges. Raises ConfigError with every problem."""
    assert config.align is not None and config.data.prompts is not None
    found = Collector()
    key = "align.policy" if config.align.policy else "base"
    policy = found.attempt("", locate, config.align.policy or config.base, key)
    if policy:
        found.attempt(None, check_located, policy, key)
    template = config.align.chat_template
    if template and not Path(template).is_file():
        found.add(f"file {template} not found", where="align.chat_template", do="check the path")
    prompts = {}
    for lang in config.languages.targets:
        limit = config.data.prompt_limit
        prompts[lang] = found.attempt(
            [], load_prompts, config.data.prompts, [lang], limit=limit, key="data.prompts", pivot=""
        )
    judges = [found.attempt(None, _check_judge, judge) for judge in config.judges]
    names = [judge.name for judge in judges if judge is not None]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        do = "name each judge once, and give models of one name folders of other names"
        found.add(f"two judges are called {', '.join(twice)}", where="judges", do=do)
    found.raise_any()
    return AlignInputs(policy, prompts, [judge for judge in judges if judge is not None])


def _check_judge(judge: Judge) -> Judging:
    found = Collector()
    found.attempt(None, check_judge, judge)
    found.attempt(None, check_prompts, judge)
    models = found.attempt(None, locate_judges, judge) or {}
    for model in models.values():
        found.attempt(None, check_located, model, "judges.model")
    found.raise_any()
    name = judge.own.rpartition(":")[2] if judge.own else short_name(judge.model or "")
    return Judging(name.removesuffix(".gguf"), judge, models)


def plan_candidates(config: TransferConfig, target: str) -> BestOfNConfig:
    """The sampling of one target, as `icr best-of-n` has it."""
    align = config.align
    assert align is not None and config.data.prompts is not None
    return BestOfNConfig.model_validate(
        {
            "model": align.policy or config.base,
            "prompts": {"path": config.data.prompts, "languages": [target], "limit": config.data.prompt_limit},
            "chat_template": align.chat_template,
            "template_arguments": align.template_arguments,
            "sampling": align.best_of_n.model_dump(exclude={"k"}),
        }
    )


@dataclass(frozen=True)
class ModelCell:
    """The training of a reward model; its record is its own."""

    plan: ModelPlan
    inputs: RewardInputs
    machine: Machine
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.plan.name

    def done(self) -> bool:
        """From these data and settings: any other model has no place in the matrix."""
        folder = self.plan.folder
        return (folder / "model").is_dir() and read_finished(folder, self.plan.config, self.inputs) is not None

    def do(self, note: Note) -> None:
        train_on(self.machine, self.plan.config, self.inputs)


def refuse_pattern(only: str, names: Sequence[str]) -> UserError:
    return UserError(f"no step is called {only}", where="--only", do=f"choose from {', '.join(names)}")
