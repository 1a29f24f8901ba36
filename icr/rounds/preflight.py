"""Finds everything that is wrong before any model is loaded, all at once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from eval.judges.open import check_judge, locate_judges
from eval.judges.prompts import check_prompts
from eval.nlp.tasks import check_settings
from eval.xalpaca.answers import check_baseline
from icr.base.errors import ConfigError, UserError
from icr.base.problems import Collector, load_and_check
from icr.config.load import load_config
from icr.config.schema import Config, Judge, MtBench
from icr.engines.folders import locate
from icr.languages import check_languages
from icr.rounds.check_models import check_models
from icr.rounds.checks import find_faults, find_notes
from icr.rounds.context import Inputs
from icr.rounds.public_data import name_public_data
from icr.rounds.room import check_room
from icr.rounds.stages.kinds import check_kind, compares_models, needs_english
from icr.rounds.templates import check_templates
from loops.checks import check_train
from prompts.load import Prompt, load_heldout, load_prompts
from prompts.overlap import check_overlap, describe_prompts
from prompts.preferences.english import EnglishPairs, describe_pairs, read_alignment


def preflight(config: Config) -> Inputs:
    """Check everything that needs no model.

    Raises:
        ConfigError: every problem of the config and of the files it names.
    """
    found = Collector()
    notes: list[str] = []
    _settings(config, found)
    languages = config.prompts.languages
    prompts: list[Prompt] = []
    if "en" in languages or not needs_english(config):
        pivot = "en" if "en" in languages and needs_english(config) else ""
        limit = config.prompts.limit
        prompts = found.attempt([], load_prompts, config.prompts.path, languages, limit=limit, pivot=pivot)
    policy = found.attempt(None, locate, config.models.policy, "models.policy") if config.models.policy else None
    reference = found.attempt("", locate, config.models.reference, "models.reference")
    if policy and policy == reference and compares_models(config):
        found.add(
            "policy and reference are the same model, so every reward would be 0",
            where="models",
            do="name π_I in models.reference and the model aligned from it in English in models.policy; "
            "without such a model leave policy out, and name English pairs in alignment.pairs",
        )
    trained = policy or reference
    found.problems.extend(find_faults(config))
    if trained and not trained.endswith(".gguf"):
        found.attempt(None, check_room, config, trained)
    alignment: list[dict[str, str]] = []
    if config.alignment and not config.models.policy:
        english = found.attempt(EnglishPairs([], Counter()), read_alignment, config.alignment.pairs)
        alignment = english.pairs[: config.alignment.limit]
        notes.extend(describe_pairs(english, config.alignment.limit))
    heldout, judges = _judge(config, found)
    notes.extend(found.attempt([], _describe_ends, config.judge))
    notes.extend(describe_prompts(prompts, config.prompts.limit, "prompts.path", "prompts.limit"))
    notes.extend(describe_prompts(heldout, config.judge.limit, "judge.prompts", "judge.limit"))
    overlap = config.prompts.allow_overlap
    notes.extend(found.attempt([], check_overlap, prompts, heldout, allowed=overlap))
    before = len(found.problems)
    found.attempt(None, check_models, config, policy, reference, list(judges.values()))
    if len(found.problems) == before:  # a tokenizer that is broken has been named
        found.attempt(None, check_templates, config, trained, list(judges.values()), [*prompts, *heldout], alignment)
    if found.problems:
        raise ConfigError(name_public_data(config, found.problems))
    inputs = Inputs(prompts, heldout, alignment, policy, reference, judges)
    return replace(inputs, notes=[*notes, *find_notes(config, inputs)])


def load_checked(
    path: Path, overrides: Sequence[str] = (), changes: Mapping[str, object] | None = None
) -> tuple[Config, Inputs]:
    """`load_config` and `preflight` in one go: the config, and what was read on the way.

    Raises:
        ConfigError: the problems of both.
    """
    config = load_and_check(lambda: load_config(path, overrides, changes), preflight)
    return config, preflight(config)


def _settings(config: Config, found: Collector) -> None:
    languages = config.prompts.languages
    if "en" not in languages and needs_english(config):
        found.add(
            "`en` is not among the languages",
            where="prompts.languages",
            do="add en: the reward is conditioned on the English prompts",
        )
    found.attempt(None, check_languages, languages, "prompts.languages")
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
    if config.train.nodes > 1 and not config.train.launcher and config.cluster.address is None:
        found.add(
            f"the command that starts the training on {config.train.nodes} nodes is missing",
            where="train.launcher",
            do="set the command that starts a program once on each node, such as srun --ntasks-per-node=1, or use a "
            "Ray cluster (--cluster auto, docs/cluster.md)",
        )
    found.attempt(None, check_train, config.train)
    found.attempt(None, check_kind, config)
    if config.objective not in ("dpo", "kto"):
        found.attempt(None, _check_objective, config)


def check_batch(config: Config, processes: int) -> None:
    """A batch must be whole micro-batches on every process; KTO makes two rows of a pair.

    Raises:
        ConfigError: the training's or the alignment's is not.
    """
    asked = config.train.micro_batch_size
    micro = 1 if asked == "auto" else asked  # `auto` divides what a process has
    batches = [("train.batch_size", config.train.batch_size, 2 if config.objective == "kto" else 1)]
    if config.alignment and not config.models.policy:
        batches.append(("alignment.batch_size", config.alignment.batch_size, 1))  # the alignment is DPO
    problems = [
        UserError(
            f"a batch of {size} pairs cannot be split into micro-batches of {asked} on {processes} processes",
            where=key,
            do=f"make it a multiple of {micro * processes // math.gcd(micro * processes, rows)}",
        )
        for key, size, rows in batches
        if size * rows % (micro * processes)
    ]
    if problems:
        raise ConfigError(problems)


def _check_objective(config: Config) -> None:
    from loops.families import family_of
    from loops.objective import make_objective

    family_of(make_objective(config.objective, beta=config.train.beta, nll_weight=config.train.nll_weight))


def _judge(config: Config, found: Collector) -> tuple[list[Prompt], dict[str, str]]:
    judge = config.judge
    if not judge.active:
        return [], {}
    if len(set(judge.benchmarks)) < len(judge.benchmarks):
        found.add("a benchmark is listed twice", where="judge.benchmarks", do="list each benchmark once")
    if "nlp" in judge.benchmarks:
        found.attempt(None, check_settings, judge.nlp, config.prompts.languages)
    if judge.kind == "none":
        others = [name for name in judge.benchmarks if name != "nlp"]
        if others:
            found.add(
                f"{', '.join(others)} need a judge",
                where="judge.kind: none",
                do="name a judge (local or openai), or remove them from judge.benchmarks",
            )
        return [], {}
    found.attempt(None, check_prompts, judge)
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
    for key in ("difficulty", "gamed"):
        name = getattr(judge, key)
        if name and not Path(name).is_file():
            found.add(f"file {name} not found", where=f"judge.{key}", do="check the path")
    if not judge.model and not judge.own and not judge.judges:
        found.add("the judge has no model", where="judge.model", do="name a model, or set judge.kind to none")
    heldout: list[Prompt] = []
    if judge.prompts and ("en" in config.prompts.languages or not needs_english(config)):
        heldout = found.attempt([], load_heldout, judge.prompts, config.prompts.languages, judge.limit)
    if judge.model or judge.own or judge.judges:
        found.attempt(None, check_judge, judge)
    if judge.prices and not judge.asks_endpoint:
        found.attempt(None, _check_prices, judge.prices)
    if judge.baseline != "round-0":
        found.attempt(None, check_baseline, Path(judge.baseline), heldout)
    return heldout, found.attempt({}, locate_judges, judge)


def _describe_ends(judge: Judge) -> list[str]:
    from icr.endpoint.ends import describe_ends

    return describe_ends(judge)


def _check_prices(path: str) -> None:
    from icr.endpoint.prices import read_prices

    read_prices(Path(path))


def _check_questions(settings: MtBench, languages: list[str]) -> None:
    from eval.mtbench.questions import load_questions

    load_questions(settings, languages)
