"""Everything that is wrong with an experiment of `icr transfer`, before anything is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.judges.open import check_judge, locate_judges
from eval.judges.prompts import check_prompts
from eval.reward_models.evaluate import select_rows
from eval.reward_models.scoring import short_name
from icr.base.problems import Collector, key_elsewhere, keys_behind
from icr.config.schema import Judge
from icr.config.transfer import TransferConfig
from icr.config.transfer_align import TrainedPrompts
from icr.engines.check import check_chat, check_located
from icr.engines.folders import locate
from icr.engines.templates import Template
from icr.experiments.reward_inputs import RewardInputs, check_inputs
from icr.experiments.rl_inputs import check_count, check_training, divide, refuse_overlap
from icr.experiments.training import check_batch
from icr.experiments.transfer_plan import MODEL_KEYS, AlignInputs, Inputs, Judging, ModelPlan
from icr.experiments.transfer_task import with_task
from icr.experiments.transfer_texts import read_texts
from icr.experiments.transfer_translate import check_translator
from icr.languages import check_languages
from icr.work.ray_cluster import connect
from loops.checks import check_train
from prompts.load import Prompt, load_prompts
from prompts.overlap import find_overlap
from prompts.preferences.make import PreferenceData, Rows, load_data

RL_KEYS = ("train", "heldout")


def check_experiment(config: TransferConfig, models: Sequence[ModelPlan]) -> Inputs:
    """Everything that is wrong with the experiment, before anything is done.

    Raises:
        ConfigError: every problem once.
    """
    found, targets = Collector(), config.languages.targets
    if config.clustered:
        found.attempt(None, connect, config.cluster)
    found.attempt(None, check_languages, targets, "languages.targets")
    data = found.attempt(None, load_data, Path(config.data.preferences), "data.preferences")
    rows: Rows = []
    if data is not None:
        rows = found.attempt(rows, select_rows, data, "validation", targets, "languages.targets")
    inputs = {
        model.name: found.attempt(None, _check_model, model, data, config.clustered)
        for model in models
        if model.target is None
    }
    if config.translated:
        found.attempt(None, check_translator, config)
    look = found.attempt(None, read_texts, config, data) if config.look is not None and data is not None else None
    align = found.attempt(None, _check_align, config) if config.align is not None else None
    found.raise_any()
    assert data is not None
    known = {name: of_model for name, of_model in inputs.items() if of_model is not None}
    return Inputs(data, rows, known, align, look)


def _check_model(model: ModelPlan, data: PreferenceData | None, clustered: bool) -> RewardInputs:
    """As `check_inputs`, with the keys of the experiment. Raises ConfigError: every problem."""
    languages = "languages.sources" if len(model.languages) == 1 else "languages.pooled"
    check = keys_behind("reward_model.", tuple(MODEL_KEYS), check_inputs)
    check = key_elsewhere("data.path", "data.preferences", key_elsewhere("data.languages", languages, check))
    return check(model.config, data, clustered=clustered)


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
    file = config.align.chat_template
    if file and not Path(file).is_file():
        found.add(f"file {file} not found", where="align.chat_template", do="check the path")
    elif policy:
        template = Template(file=file, arguments=config.align.template_arguments)
        found.attempt(None, check_chat, policy, template, key, "align.chat_template")
    prompts = _load_prompts(config, config.data.prompts, config.data.prompt_limit, "data.prompts", found)
    training = found.attempt({}, _check_dpo, config, prompts) if config.align.dpo else {}
    rl = found.attempt({}, _check_rl, config, prompts) if config.align.rl else {}
    check_each = key_elsewhere("judge.", "judges.", _check_judge)
    judges = [found.attempt(None, check_each, with_task(judge, config.task)) for judge in config.judges]
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
    check, train = keys_behind("align.dpo.", ("train",), check_batch), dpo.train
    found.attempt(None, check, train, train.batch_size, clustered=config.clustered)
    found.raise_any()
    return prompts


def _check_rl(
    config: TransferConfig, judged: Mapping[str, Sequence[Prompt]]
) -> dict[str, tuple[list[Prompt], list[Prompt]]]:
    """By target, the prompts that are trained on and those that are held out. Raises ConfigError with every problem."""
    assert config.align is not None and config.align.rl is not None
    found, rl = Collector(), config.align.rl
    check = keys_behind("align.rl.", ("train",), check_training)
    found.attempt(None, check, rl.train, rl.sampling.n, clustered=config.clustered)
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
