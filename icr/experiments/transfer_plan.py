"""What an experiment of `icr transfer` is made of, and everything that is wrong with it before anything is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.judges.open import check_judge, locate_judges
from eval.judges.prompts import check_prompts
from eval.reward_models.evaluate import select_rows
from eval.reward_models.look import LookInputs
from eval.reward_models.scoring import short_name
from icr.base.errors import UserError
from icr.base.problems import Collector, keys_behind
from icr.config.best_of_n import BestOfNConfig
from icr.config.reward_model import RewardModelConfig
from icr.config.schema import Judge
from icr.config.transfer import TrainedPrompts, TransferConfig, TransferModels, language_of
from icr.engines.check import check_located
from icr.engines.folders import locate
from icr.experiments.cells import Note
from icr.experiments.reward_inputs import RewardInputs, check_inputs
from icr.experiments.reward_model import read_finished, train_on
from icr.experiments.rl_inputs import check_count, check_training, divide, refuse_overlap
from icr.experiments.transfer_texts import read_texts
from icr.experiments.transfer_translate import check_translator, translated_rows
from icr.languages import check_languages
from icr.work.machine import Machine
from loops.checks import check_train
from loops.data import Split
from prompts.load import Prompt, load_prompts
from prompts.overlap import find_overlap
from prompts.preferences.make import PreferenceData, Rows, load_data

RL_KEYS = ("train", "heldout")
MODEL_KEYS = tuple(TransferModels.model_fields)


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
    assert config.run is not None
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
    check = keys_behind("reward_model.", MODEL_KEYS, check_inputs)
    inputs = {m.name: found.attempt(None, check, m.config, data) for m in models if m.target is None}
    if config.translated:
        found.attempt(None, check_translator, config)
    look = found.attempt(None, read_texts, config, data) if config.look is not None and data is not None else None
    align = found.attempt(None, _check_align, config) if config.align is not None else None
    found.raise_any()
    assert data is not None
    known = {name: of_model for name, of_model in inputs.items() if of_model is not None}
    return Inputs(data, rows, known, align, look)


def _check_align(config: TransferConfig) -> AlignInputs:
    """Policy, prompts and judges. Raises ConfigError with every problem."""
    assert config.align is not None and config.data.prompts is not None
    found = Collector()
    key = "align.policy" if config.align.policy else "base"
    policy = found.attempt("", locate, config.align.policy or config.base, key)
    if policy:
        found.attempt(None, check_located, policy, key)
    if policy.endswith(".gguf") and (config.align.dpo or config.align.rl or config.sft):
        do = "name a folder or a hub id with safetensors weights"
        found.add("a .gguf file cannot be trained", where=f"{key}: {policy}", do=do)
    template = config.align.chat_template
    if template and not Path(template).is_file():
        found.add(f"file {template} not found", where="align.chat_template", do="check the path")
    prompts = _load_prompts(config, config.data.prompts, config.data.prompt_limit, "data.prompts", found)
    training = found.attempt({}, _check_dpo, config, prompts) if config.align.dpo else {}
    rl = found.attempt({}, _check_rl, config, prompts) if config.align.rl else {}
    judges = [found.attempt(None, _check_judge, judge) for judge in config.judges]
    names = [judge.name for judge in judges if judge is not None]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        do = "name each judge once, and give models of one name folders of other names"
        found.add(f"two judges are called {', '.join(twice)}", where="judges", do=do)
    found.raise_any()
    return AlignInputs(policy, prompts, [judge for judge in judges if judge is not None], training, rl)


def _load_prompts(
    config: TransferConfig, path: str, limit: int | None, key: str, found: Collector
) -> dict[str, Sequence[Prompt]]:
    """By target."""
    return {
        lang: found.attempt([], load_prompts, path, [lang], limit=limit, key=key, pivot="")
        for lang in config.languages.targets
    }


def _check_dpo(config: TransferConfig, judged: Mapping[str, Sequence[Prompt]]) -> dict[str, Sequence[Prompt]]:
    """The prompts that are trained on, by target. Raises ConfigError with every problem."""
    assert config.align is not None and config.align.dpo is not None
    found, dpo = Collector(), config.align.dpo
    prompts = _load_trained(config, dpo, "align.dpo", judged, found)
    found.attempt(None, keys_behind("align.dpo.", ("train",), check_train), dpo.train)
    micro = 1 if dpo.train.micro_batch_size == "auto" else dpo.train.micro_batch_size
    processes = 1 if dpo.train.processes == "auto" else dpo.train.processes
    split = Split(dpo.train.batch_size, micro, processes * dpo.train.nodes)
    found.attempt(0, keys_behind("align.dpo.", ("train",), split.accumulation))
    found.raise_any()
    return prompts


def _check_rl(
    config: TransferConfig, judged: Mapping[str, Sequence[Prompt]]
) -> dict[str, tuple[list[Prompt], list[Prompt]]]:
    """By target, the prompts that are trained on and those that are held out. Raises ConfigError with every problem."""
    assert config.align is not None and config.align.rl is not None
    found, rl = Collector(), config.align.rl
    found.attempt(None, keys_behind("align.rl.", ("train",), check_training), rl.train, rl.sampling.n)
    parts: dict[str, tuple[list[Prompt], list[Prompt]]] = {}
    trained = _load_trained(config, rl, "align.rl", judged, found)
    key, path = "align.rl.heldout.path", rl.heldout.path
    heldout = _load_prompts(config, path, rl.heldout.prompts, key, found) if path else {}
    for target, prompts in trained.items():
        if path:
            parts[target] = list(prompts), list(heldout[target])
            found.attempt(None, refuse_overlap, prompts, heldout[target], f"align.rl.prompts and {key}")
        else:
            where = f"align.rl.heldout.prompts; align.rl.prompts: {rl.prompts}"
            parts[target] = found.attempt(([], []), divide, prompts, rl.heldout, rl.train.seed, where)
        if parts[target][0]:
            found.attempt(None, keys_behind("align.rl.", RL_KEYS, check_count), parts[target][0], rl.train)
    found.raise_any()
    return parts


def _load_trained(
    config: TransferConfig, of: TrainedPrompts, key: str, judged: Mapping[str, Sequence[Prompt]], found: Collector
) -> dict[str, Sequence[Prompt]]:
    """Prompts that are trained on, by target, none of which is judged. `key`: of the section that names them."""
    prompts = _load_prompts(config, of.prompts, of.prompt_limit, f"{key}.prompts", found)
    both = find_overlap([p for each in prompts.values() for p in each], [p for each in judged.values() for p in each])
    if both and not of.allow_overlap:
        counts = ", ".join(f"{lang} {len(ids)}" for lang, ids in both.items())
        do = f"name other prompts (icr prompts split makes both), or set {key}.allow_overlap: true"
        what = f"prompts that are judged are also trained on: {counts}"
        found.add(what, where=f"{key}.prompts and data.prompts", do=do)
    return prompts


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


@dataclass(frozen=True)
class ModelCell:
    """The training of a reward model; its record is its own."""

    plan: ModelPlan
    inputs: RewardInputs | None
    """None: of rows that are translated first."""
    machine: Machine

    @property
    def name(self) -> str:
        return self.plan.name

    @property
    def needs(self) -> tuple[str, ...]:
        return (f"translate-{self.plan.languages[0]}-{self.plan.target}",) if self.plan.target else ()

    def done(self) -> bool:
        """From these data and settings: any other model has no place in the matrix."""
        folder = self.plan.folder
        if not (folder / "model").is_dir():
            return False
        return read_finished(folder, self.plan.config, self.inputs or check_inputs(self.plan.config)) is not None

    def do(self, note: Note) -> None:
        train_on(self.machine, self.plan.config, self.inputs or check_inputs(self.plan.config))


def refuse_pattern(only: str, names: Sequence[str]) -> UserError:
    return UserError(f"no step is called {only}", where="--only", do=f"choose from {', '.join(names)}")
