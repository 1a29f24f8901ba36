"""Which config keys decide which step's result, in one table, and the history of a run's config."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, cast, get_args

from icr.base.files import write_text
from icr.config.load import dump_config
from icr.config.schema import Config, Judge
from icr.work.steps import show

Stage = Literal[
    "align",
    "sample",
    "score",
    "pair",
    "train",
    "judge",
    "judge/xalpaca",
    "judge/mtbench",
    "judge/accuracy",
    "judge/nlp",
]  # fmt: skip
"""`judge` is all benchmarks of the config as one step; `judge/NAME` one of them."""
STAGES: tuple[Stage, ...] = get_args(Stage)

INPUT = "input"
"""Names an input of steps: known by its content (`icr.base.content`), so it may be moved or named otherwise."""
PLAN = "plan"
"""Decides which steps there are, not what any of them makes."""
OPERATIONAL = "operational"
"""May change at any restart: affects how the work is done, not its results."""

ASKING = ("judge/xalpaca", "judge/mtbench", "judge/accuracy")
"""Benchmarks with a judge."""
ANSWERING = ("judge/xalpaca", "judge/mtbench")
"""Benchmarks for which the policy writes answers."""
TRAINING = ("align", "train")

USES: dict[str, tuple[str, ...]] = {
    "run": (OPERATIONAL,),
    "rounds": (PLAN,),
    "stop_when": (PLAN,),
    "models.policy": (INPUT,),
    "models.reference": (INPUT,),
    "models.chat_template": (INPUT,),
    "models.template_arguments": ("align", "sample", *ANSWERING),
    "alignment.pairs": (INPUT,),
    "alignment.limit": ("align",),
    "alignment.learning_rate": ("align",),
    "alignment.epochs": ("align",),
    "alignment.batch_size": ("align",),
    "alignment.beta": ("align",),
    "alignment.nll_weight": ("align",),
    "prompts.path": (INPUT,),
    # their order, too, as it decides which prompts are in one batch
    "prompts.languages": ("sample", *ANSWERING, "judge/nlp"),
    "prompts.limit": ("sample",),
    "prompts.allow_overlap": (OPERATIONAL,),
    "sampling.backend": ("sample", *ANSWERING),
    "sampling.n": ("sample",),
    "sampling.temperature": ("sample",),
    "sampling.top_p": ("sample",),
    "sampling.max_tokens": ("sample",),
    "sampling.stop": ("align", "sample", *ANSWERING),
    "sampling.seed": ("sample", *ANSWERING),
    "sampling.precision": ("sample", *ANSWERING),
    # decides which prompts are in one batch, and so, on a CPU, the last bits of their probabilities; as it is set, also
    # where a GPU takes fewer (`icr.work.shards.shard_size`)
    "sampling.shard_size": ("sample", *ANSWERING),
    "sampling.tensor_parallel": (OPERATIONAL,),
    "sampling.gpu_memory": (OPERATIONAL,),
    "reward.kind": ("sample", "score"),
    "reward.model": (INPUT,),
    "reward.beta": ("score",),
    "reward.length_penalty": ("score",),
    "reward.length_unit": ("score",),
    # what counts is the model that it picks in a round: in round 1 both values pick π_I
    "reward.reference": (INPUT,),
    "reward.precision": ("score",),
    "reward.batch_tokens": (OPERATIONAL,),
    "reward.flip_check": (OPERATIONAL,),
    "reward.drop_truncated": ("score",),
    "reward.drop_wrong_language": ("score",),
    "reward.reject_wrong_language": ("score", "pair"),
    "objective": ("train",),
    "train.learning_rate": ("train",),  # `align` has its own, as well as the next four
    "train.batch_size": ("train",),
    "train.epochs": ("train",),
    "train.nll_weight": ("train",),
    "train.beta": ("train",),
    "train.micro_batch_size": (OPERATIONAL,),
    "train.warmup_ratio": TRAINING,
    "train.scheduler": TRAINING,
    "train.weight_decay": TRAINING,
    "train.max_grad_norm": TRAINING,
    "train.deepspeed": (OPERATIONAL,),  # although rounding may differ
    "train.processes": (OPERATIONAL,),
    "train.nodes": (OPERATIONAL,),
    "train.launcher": (OPERATIONAL,),
    "train.precision": TRAINING,
    "train.gradient_checkpointing": (OPERATIONAL,),
    "train.lora.rank": TRAINING,
    "train.lora.alpha": TRAINING,
    "train.lora.dropout": TRAINING,
    "train.lora.target_modules": TRAINING,
    "train.optimizer": TRAINING,
    "train.scheduler_arguments": TRAINING,
    "train.warmup_steps": TRAINING,
    "train.dropout": TRAINING,
    "train.validation": TRAINING,
    "train.validation_steps": (OPERATIONAL,),
    "train.save_steps": (OPERATIONAL,),
    "train.save_minutes": (OPERATIONAL,),
    "train.seed": TRAINING,
    "train.report_to": (OPERATIONAL,),
    "judge.base_url": ASKING,
    "judge.concurrency": (OPERATIONAL,),
    "judge.requests_per_minute": (OPERATIONAL,),
    "judge.tokens_per_minute": (OPERATIONAL,),
    "judge.attempts": (OPERATIONAL,),
    "judge.timeout": (OPERATIONAL,),
    "judge.budget": (OPERATIONAL,),
    "judge.prices": (OPERATIONAL,),
    "judge.ends": (OPERATIONAL,),
    "judge.cache": (OPERATIONAL,),
    "judge.reasoning_effort": ASKING,
    "judge.extra_body": ASKING,
    "judge.system": ASKING,
    "judge.kind": ASKING,
    "judge.model": ASKING,
    "judge.judges": ASKING,
    "judge.benchmarks": (PLAN,),
    "judge.every": (PLAN,),
    "judge.prompts": (INPUT,),
    "judge.limit": ("judge/xalpaca",),
    "judge.baseline": (INPUT,),
    "judge.orders": ("judge/xalpaca",),
    "judge.template": (INPUT,),
    "judge.preference": ASKING,
    "judge.structured": ASKING,
    "judge.batch": (OPERATIONAL,),
    "judge.verdict_tokens": ASKING,
    "judge.verdict_temperature": ASKING,
    "judge.max_unscored": (OPERATIONAL,),
    "judge.difficulty": (INPUT,),
    "judge.gamed": (INPUT,),
    "judge.max_tokens": ("judge/xalpaca",),
    "judge.temperature": ("judge/xalpaca",),
    "judge.top_p": ("judge/xalpaca",),
    "judge.mtbench.questions": (INPUT,),
    "judge.mtbench.references": (INPUT,),
    "judge.mtbench.limit": ("judge/mtbench",),
    "judge.mtbench.max_tokens": ("judge/mtbench",),
    "judge.accuracy.pairs": ("judge/accuracy",),
    "judge.nlp.tasks": ("judge/nlp",),
    "judge.nlp.include_path": (INPUT,),
    "judge.nlp.few_shot": ("judge/nlp",),
    "judge.nlp.chat_template": ("judge/nlp",),
    "judge.nlp.limit": ("judge/nlp",),
    "judge.nlp.backend": ("judge/nlp",),
    "judge.nlp.batch_size": (OPERATIONAL,),
    "cluster.address": (OPERATIONAL,),
    "cluster.workers": (OPERATIONAL,),
    "cluster.retries": (OPERATIONAL,),
    "cluster.models": (OPERATIONAL,),
}
"""Config key → the stages whose results depend on it beyond their inputs, or one of INPUT, PLAN and OPERATIONAL.

A stage has only the keys that none of its inputs was made under: `score` depends on `sampling.temperature` through the
responses. Not here, as it is not a config key: the number of the round, on which the noise of `sample` depends.
"""


def _is_lidr(config: Config) -> bool:
    return config.reward.kind == "lidr"


def _has_log_ratio(config: Config) -> bool:
    return config.reward.kind in ("cross-lingual", "multilingual", "translate")


def _asks_endpoint(config: Config) -> bool:
    return config.judge.asks_endpoint


ONLY_WHERE: dict[str, Callable[[Config, Stage], bool]] = {
    "models.template_arguments": lambda config, stage: bool(config.models.template_arguments),
    "sampling.stop": lambda config, stage: bool(config.sampling.stop),
    "reward.reject_wrong_language": lambda config, stage: config.reward.reject_wrong_language,
    "judge.nlp.chat_template": lambda config, stage: config.judge.nlp.chat_template,
    # LIDR takes one greedy response per prompt, whatever `sampling` says, and has no rewards
    "reward.kind": lambda config, stage: stage == "score" or _is_lidr(config),
    "sampling.n": lambda config, stage: not _is_lidr(config),
    "sampling.temperature": lambda config, stage: not _is_lidr(config),
    "sampling.top_p": lambda config, stage: not _is_lidr(config),
    "reward.length_penalty": lambda config, stage: not _is_lidr(config),
    "reward.beta": lambda config, stage: _has_log_ratio(config),
    "reward.precision": lambda config, stage: _has_log_ratio(config) or config.reward.kind == "model",
    # a local judge is an input, known by its weights
    "judge.model": lambda config, stage: _asks_endpoint(config),
    "judge.base_url": lambda config, stage: _asks_endpoint(config),
    "judge.preference": lambda config, stage: _asks_endpoint(config),
}
"""Keys that do not count everywhere. A key that is new in a version of icr belongs here, too: it must not count at the
value that leaves results as they were, or runs of earlier versions would be refused."""


SINCE: dict[str, object] = {
    "judge.reasoning_effort": None,
    "judge.extra_body": {},
    "judge.system": None,
    "judge.judges": [],
    "judge.structured": False,
    "judge.verdict_tokens": None,
    "judge.verdict_temperature": None,
}
"""Keys of endpoints that came later, and the value that leaves verdicts as they were: at it they are in no record."""


def settings_of(config: Config, stage: Stage) -> dict[str, object]:
    """Config key → value: all of the config that the stage's result depends on, besides its inputs.

    Values are plain JSON as the config's types have them, so that 1 and 1.0 are one. Keys of an absent section are left
    out.

    Raises:
        ValueError: unknown stage.
    """
    if stage not in STAGES:
        raise ValueError(f"no stage {stage}; the stages are {', '.join(STAGES)}")
    if stage == "judge":
        parts = [settings_of(config, cast(Stage, f"judge/{name}")) for name in config.judge.benchmarks]
        merged = {key: value for part in parts for key, value in part.items()}
        return {key: merged[key] for key in USES if key in merged} | {
            "judge.benchmarks": sorted(config.judge.benchmarks)
        }
    used = (key for key, stages in USES.items() if stage in stages and _counts(config, stage, key))
    found = {key: value for key in used for value in values_of(config, key)}
    return {key: value for key, value in found.items() if key not in SINCE or value != SINCE[key]}


def is_operational(key: str) -> bool:
    """Whether a config key may change at any restart without any step being done again, or refused.

    Raises:
        KeyError: unknown key.
    """
    return USES[key] in ((OPERATIONAL,), (PLAN,))


def append_history(path: Path, old: Config, new: Config, when: str) -> None:
    """Write `new` as a run's config.yaml; comment lines at its end say what has changed since the run was started.

    Args:
        path: RUN/config.yaml. Its comment lines are kept.
        old: the config that it holds.
        when: date and time, for the lines.
    """
    before = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    # a dumped value is never in the first column, so a `#` there begins a comment
    lines = [line for line in before if line.startswith("#")]
    lines += [f"# {when} {key}: {was} → {now}" for key, was, now in _find_differences(old, new)]
    write_text(path, dump_config(new, path.parent) + "".join(f"{line}\n" for line in lines))


def _find_differences(old: Config, new: Config) -> Iterator[tuple[str, str, str]]:
    """(key, old value, new value) as shown; `run` is where the file is."""
    for key in USES:
        was, now = (show(next(values_of(config, key), None)) for config in (old, new))
        if was != now and key != "run":
            yield key, was, now


def _counts(config: Config, stage: Stage, key: str) -> bool:
    if key in SINCE and key != "judge.judges" and not _asks_endpoint(config):
        return False
    return key not in ONLY_WHERE or ONLY_WHERE[key](config, stage)


def values_of(config: object, key: str) -> Iterator[object]:
    """What a key says in a config, besides what its inputs are, if its section is there."""
    *sections, last = key.split(".")
    found = config
    for name in sections:
        found = getattr(found, name)
        if found is None:
            return
    yield found.judges_asked if isinstance(found, Judge) and last == "judges" else getattr(found, last)
