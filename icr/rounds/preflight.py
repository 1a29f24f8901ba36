"""Finds everything that is wrong before any model is loaded, all at once."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.judges.own import check_own_judge
from eval.nlp.tasks import check_settings
from eval.xalpaca.answers import check_baseline
from icr.base.conversation import Conversation, is_plain, load_conversation
from icr.base.errors import ConfigError, UserError
from icr.base.problems import Collector
from icr.config.load import load_config
from icr.config.schema import Config, MtBench
from icr.engines.check import find_folder
from icr.engines.folders import locate
from icr.languages import english_name
from icr.rounds.check_models import check_models
from icr.rounds.context import Inputs
from icr.rounds.stages.kinds import check_kind
from loops.checks import check_train
from prompts.load import Prompt, load_heldout, load_prompts
from prompts.preferences import read_alignment


def preflight(config: Config) -> Inputs:
    """Check everything that needs no model.

    Raises:
        ConfigError: every problem of the config and of the files it names.
    """
    found = Collector()
    _settings(config, found)
    languages = config.prompts.languages
    prompts: list[Prompt] = []
    if "en" in languages:
        prompts = found.attempt([], load_prompts, config.prompts.path, languages, limit=config.prompts.limit)
    policy = found.attempt(None, locate, config.models.policy, "models.policy") if config.models.policy else None
    reference = found.attempt("", locate, config.models.reference, "models.reference")
    if policy and policy == reference:
        found.add(
            "policy and reference are the same model, so every reward would be 0",
            where="models",
            do="name π_I in models.reference and the model aligned from it in English in models.policy",
        )
    trained = policy or reference
    alignment: list[dict[str, str]] = []
    if config.alignment and not config.models.policy:
        alignment = found.attempt(alignment, read_alignment, config.alignment.pairs)[: config.alignment.limit]
    heldout, judge = _judge(config, found)
    found.attempt(None, check_models, config, policy, reference, judge)
    folder = find_folder(trained) if trained else None
    if folder is not None:
        found.attempt(None, _check_template, str(folder), config.models.chat_template, [*prompts, *heldout], alignment)
    if found.problems:
        raise ConfigError(found.problems)
    return Inputs(prompts, heldout, alignment, policy, reference, judge)


def load_checked(
    path: Path, overrides: Sequence[str] = (), changes: Mapping[str, object] | None = None
) -> tuple[Config, Inputs]:
    """`load_config` and `preflight` in one go: the config, and what was read on the way.

    Raises:
        ConfigError: the problems of both.
    """
    try:
        config = load_config(path, overrides, changes)
    except ConfigError as error:
        if isinstance(error.partial, Config):
            found = Collector()
            found.problems.extend(error.problems)
            found.attempt(None, preflight, error.partial)
            raise ConfigError(found.problems) from error
        raise
    return config, preflight(config)


def _settings(config: Config, found: Collector) -> None:
    languages = config.prompts.languages
    if "en" not in languages:
        found.add(
            "`en` is not among the languages",
            where="prompts.languages",
            do="add en: the reward is conditioned on the English prompts",
        )
    if len(set(languages)) < len(languages):
        found.add("a language is listed twice", where="prompts.languages", do="list each language once")
    for lang in languages:
        found.attempt("", english_name, lang)
    if not config.models.policy and not config.alignment:
        found.add(
            "the English-aligned policy is missing",
            where="models.policy",
            do="name π_θ⁰ in models.policy, or give English pairs in alignment.pairs to make it",
        )
    if config.models.chat_template and not Path(config.models.chat_template).is_file():
        found.add(f"file {config.models.chat_template} not found", where="models.chat_template", do="check the path")
    if config.train.processes != "auto":
        found.attempt(None, check_batch, config, config.train.processes * config.train.nodes)
    if config.train.nodes > 1 and not config.train.launcher:
        found.add(
            f"the command that starts the training on {config.train.nodes} nodes is missing",
            where="train.launcher",
            do="set the command that starts a program once on each node, such as srun --ntasks-per-node=1",
        )
    deepspeed = config.train.deepspeed
    if deepspeed not in ("zero2", "zero3", "none") and not Path(deepspeed).is_file():
        found.add(
            f"DeepSpeed config {deepspeed} not found",
            where="train.deepspeed",
            do="write zero2, zero3, none, or the path of a JSON file",
        )
    found.attempt(None, check_train, config.train)
    found.attempt(None, check_kind, config)
    if config.objective not in ("dpo", "kto"):
        found.attempt(None, _check_objective, config.objective)


def check_batch(config: Config, processes: int) -> None:
    """A batch must be whole micro-batches on every process; KTO makes two rows of a pair.

    Raises:
        ConfigError: the training's or the alignment's is not.
    """
    micro = config.train.micro_batch_size
    batches = [("train.batch_size", config.train.batch_size, 2 if config.objective == "kto" else 1)]
    if config.alignment and not config.models.policy:
        batches.append(("alignment.batch_size", config.alignment.batch_size, 1))  # the alignment is DPO
    problems = [
        UserError(
            f"a batch of {size} pairs cannot be split into micro-batches of {micro} on {processes} processes",
            where=key,
            do=f"make it a multiple of {micro * processes // math.gcd(micro * processes, rows)}",
        )
        for key, size, rows in batches
        if size * rows % (micro * processes)
    ]
    if problems:
        raise ConfigError(problems)


def _check_template(
    model: str, chat_template: str | None, prompts: Sequence[Prompt], alignment: Sequence[Mapping[str, str]]
) -> None:
    """Whether the model's chat template takes the conversations: one of each sequence of roles is rendered.

    Plain texts are not, and a hub id's template is looked at only where it is in the local cache: what it refuses is
    said when the first prompts are encoded.

    Raises:
        ConfigError: every sequence that it does not take, by the first prompt that has it.
        UserError: the tokenizer cannot be loaded.
    """
    from icr.engines.models import fill_template, has_tokenizer, load_tokenizer

    every: list[tuple[str, Conversation]] = [(f"prompt {p.id}, language {p.lang}", p.messages) for p in prompts]
    every += [(f"alignment pair {n}", load_conversation(pair["prompt"])) for n, pair in enumerate(alignment, 1)]
    by_roles: dict[tuple[str, ...], tuple[str, Conversation]] = {}
    for name, messages in every:
        if not is_plain(messages):
            by_roles.setdefault(tuple(m["role"] for m in messages), (name, messages))
    if not by_roles or not has_tokenizer(model):
        return
    tokenizer = load_tokenizer(model, chat_template)
    problems = []
    for name, messages in by_roles.values():
        try:
            fill_template(tokenizer, messages, opened=True)
        except UserError as error:
            problems.append(UserError(error.what, where=f"{name}; {error.where}", do=error.do))
    if problems:
        raise ConfigError(problems)


def _check_objective(name: str) -> None:
    from loops.objective import load_objective

    load_objective(name)


def _judge(config: Config, found: Collector) -> tuple[list[Prompt], str | None]:
    judge = config.judge
    if not judge.active:
        return [], None
    if "nlp" in judge.benchmarks:
        found.attempt(None, check_settings, judge.nlp)
    if judge.kind == "none":
        others = [name for name in judge.benchmarks if name != "nlp"]
        if others:
            found.add(
                f"{', '.join(others)} need a judge",
                where="judge.kind: none",
                do="name a judge (local or openai), or remove them from judge.benchmarks",
            )
        return [], None
    if judge.own:
        found.attempt(None, check_own_judge, judge.own, judge.benchmarks)
    if not judge.prompts and "xalpaca" in judge.benchmarks:
        found.add(
            "the judge has no prompts", where="judge.prompts", do="name held-out prompts, or set judge.kind to none"
        )
    if "mtbench" in judge.benchmarks and judge.mtbench is None:
        found.add(
            "MT-Bench has no questions",
            where="judge.mtbench",
            do="name their folder in judge.mtbench.questions, or remove mtbench from judge.benchmarks",
        )
    if "mtbench" in judge.benchmarks and judge.mtbench is not None:
        found.attempt(None, _check_questions, judge.mtbench, config.prompts.languages)
    for key in ("difficulty", "gamed", "prices"):
        name = getattr(judge, key)
        if name and not Path(name).is_file():
            found.add(f"file {name} not found", where=f"judge.{key}", do="check the path")
    if not judge.model and not judge.own:
        found.add("the judge has no model", where="judge.model", do="name a model, or set judge.kind to none")
    heldout: list[Prompt] = []
    if judge.prompts and "en" in config.prompts.languages:
        heldout = found.attempt([], load_heldout, judge.prompts, config.prompts.languages, judge.limit)
    if judge.kind == "openai" and not judge.base_url and not os.environ.get("OPENAI_API_KEY"):
        found.add(
            "the key for the judge is missing",
            where="judge.kind: openai",
            do="set the environment variable OPENAI_API_KEY, or name your own endpoint in judge.base_url",
        )
    if judge.baseline != "round-0":
        found.attempt(None, check_baseline, Path(judge.baseline), heldout)
    model = judge.local_model
    return heldout, found.attempt(None, locate, model, "judge.model") if model else None


def _check_questions(settings: MtBench, languages: list[str]) -> None:
    from eval.mtbench.questions import load_questions

    load_questions(settings, languages)
