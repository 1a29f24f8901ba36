"""What `icr rl` trains from, and everything that is wrong with it before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from icr.base.content import hash_file, hash_rows, identify_model
from icr.base.errors import UserError, some
from icr.base.problems import Collector
from icr.config.load import flatten
from icr.config.rl import RLConfig, RLMeasuring, RLTrain
from icr.config.schema import Train
from icr.engines.check import check_chat, check_located
from icr.engines.classifier import check_classifier
from icr.engines.folders import locate
from icr.engines.templates import Template
from icr.experiments.training import check_batch, may_change
from icr.languages import check_languages
from icr.work.steps import Step
from loops.checks import check_train
from loops.rl_spec import DRIVER
from prompts.load import Prompt, load_prompts
from prompts.overlap import find_overlap

INPUTS = ("run", "policy", "chat_template", "reward.model", "prompts.path", "prompts.limit", "heldout.path")
"""Keys that name an input of the training, which is known by its content."""
FREE = ("reward.batch_tokens", "sampling.gpu_memory")
"""Keys that may change at any restart, beside those of `train`."""


@dataclass(frozen=True)
class RLInputs:
    """What the checks read on their way."""

    policy: str
    """A folder or a hub id."""
    rewards: Mapping[str, str]
    """Name → classifier's folder or hub id, DRIVER's first."""
    train: Sequence[Prompt]
    heldout: Sequence[Prompt]
    instructions: Mapping[str, str] = field(default_factory=dict)
    """Language → text before every prompt, which the policy reads and the reward models do not."""


def plain_train(of: RLTrain) -> Train:
    """The settings of the training as `loops` knows them."""
    unused = {"warmup_ratio"} if of.warmup_steps is not None else set()
    return Train.model_validate(of.model_dump(include=set(Train.model_fields) - unused))


def check_rl(config: RLConfig) -> RLInputs:
    """Check everything that needs no loaded model.

    Raises:
        ConfigError: every problem of the config, the prompts and the models.
    """
    found = Collector()
    if config.run is None:
        found.add("no output folder is named", where="run", do="add --run FOLDER, or `run: FOLDER` to the file")
    policy = found.attempt("", locate, config.policy, "policy")
    if policy.endswith(".gguf"):
        do = "name a folder or a hub id with safetensors weights"
        found.add("a .gguf file cannot be trained", where=f"policy: {config.policy}", do=do)
    elif policy:
        found.attempt(None, check_located, policy, "policy")
        template = Template(file=config.chat_template, arguments=config.template_arguments)
        found.attempt(None, check_chat, policy, template, "policy")
    named = {DRIVER: ("reward.model", config.reward.model)}
    named |= {name: (f"heldout.reward_models.{name}", of) for name, of in config.heldout.reward_models.items()}
    rewards = {name: found.attempt("", check_classifier, model, key) for name, (key, model) in named.items()}
    found.attempt(None, check_training, config.train, config.sampling.n)
    if config.chat_template and not Path(config.chat_template).is_file():
        found.add(f"file {config.chat_template} not found", where="chat_template", do="check the path")
    train, heldout = _find_prompts(config, found)
    if train:
        found.attempt(None, check_count, train, config.train)
    found.raise_any()
    return RLInputs(policy, rewards, train, heldout)


def check_training(train: RLTrain, n: int, *, clustered: bool = False) -> None:
    """Whether the settings of a training go together. Raises ConfigError with every problem.

    Args:
        n: samples a prompt.
        clustered: as of `check_batch`.
    """
    found = Collector()
    found.attempt(None, check_train, plain_train(train))
    found.attempt(None, check_batch, train, train.batch_size * n, clustered=clustered)
    found.raise_any()


def check_count(prompts: Sequence[Prompt], train: RLTrain) -> None:
    """Raises UserError where the prompts make no batch."""
    if len(prompts) * train.epochs < train.batch_size:
        raise UserError(
            f"{len(prompts)} prompts to train on are fewer than a batch of {train.batch_size}",
            where="train.batch_size, train.epochs",
            do="lower train.batch_size or heldout.prompts, or give more prompts or epochs",
        )


def _find_prompts(config: RLConfig, found: Collector) -> tuple[list[Prompt], list[Prompt]]:
    """(to train on, held out)."""
    languages, path, wanted = config.prompts.languages, config.prompts.path, config.heldout.prompts
    found.attempt(None, check_languages, languages, "prompts.languages")
    prompts: list[Prompt] = found.attempt([], load_prompts, path, languages, limit=config.prompts.limit, pivot="")
    if not prompts:
        return [], []
    if config.heldout.path is None:
        where = f"heldout.prompts; prompts.path: {path}"
        parts = found.attempt(None, divide, prompts, config.heldout, config.train.seed, where)
        return parts or ([], [])
    heldout = found.attempt(
        [], load_prompts, config.heldout.path, languages, limit=wanted, key="heldout.path", pivot=""
    )
    found.attempt(None, refuse_overlap, prompts, heldout, "prompts.path and heldout.path")
    return prompts, heldout


def refuse_overlap(train: Sequence[Prompt], heldout: Sequence[Prompt], where: str) -> None:
    """Raises ConfigError where held-out prompts are also trained on; `where`: what the user sets."""
    found = Collector()
    for lang, ids in find_overlap(train, heldout).items():
        do = "keep other prompts out of the training (icr prompts split)"
        found.add(f"{len(ids)} held-out prompts in {lang} are also training prompts: {some(ids)}", where=where, do=do)
    found.raise_any()


def divide(prompts: Sequence[Prompt], heldout: RLMeasuring, seed: int, where: str) -> tuple[list[Prompt], list[Prompt]]:
    """(to train on, held back). Raises UserError if none is left to train on; `where`: what the user sets."""
    train, held = hold_back(prompts, heldout.prompts, seed)
    if not train:
        do = "hold fewer prompts out, or give more"
        raise UserError(f"{heldout.prompts} held-out prompts leave none to train on", where=where, do=do)
    return train, held


def hold_back(prompts: Sequence[Prompt], count: int, seed: int) -> tuple[list[Prompt], list[Prompt]]:
    """(to train on, held back): a random choice of ids, each in all its languages."""
    ids = list(dict.fromkeys(prompt.id for prompt in prompts))
    chosen = np.random.default_rng([seed, 0]).permutation(len(ids))[:count]
    held = {ids[number] for number in chosen}
    return [p for p in prompts if p.id not in held], [p for p in prompts if p.id in held]


def describe_rl(config: RLConfig, inputs: RLInputs) -> Step:
    """The training as a step: what its result depends on."""
    named = {"policy": identify_model(inputs.policy)}
    named |= {name_input(name): identify_model(model) for name, model in inputs.rewards.items()}
    for label, prompts in (("prompts", inputs.train), ("held-out prompts", inputs.heldout)):
        named[label] = hash_rows({"id": p.id, "lang": p.lang, "text": p.text} for p in prompts)
    if config.chat_template:
        named["chat template"] = hash_file(Path(config.chat_template))
    settings = {
        key: value
        for key, value in flatten(config).items()
        if key not in INPUTS + FREE and not key.startswith("heldout.reward_models.") and not may_change(key)
    }
    return Step("rl", named, settings)


def name_input(name: str) -> str:
    """What a reward model is called among the inputs of the step."""
    return "reward model" if name == DRIVER else f"reward model {name}"
