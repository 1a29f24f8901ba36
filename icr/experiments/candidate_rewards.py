"""What scores the candidates of `icr best-of-n`: a classifier, or the log-ratio of two models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from eval.reward_models.scoring import BATCH_TOKENS, SHARD, Scorer, locate_reward_model, short_name
from icr.base.content import hash_rows, identify_model
from icr.base.conversation import dump_conversation
from icr.base.errors import UserError
from icr.engines.check import check_located, find_folder
from icr.engines.folders import locate
from icr.engines.models import check_same_vocabulary
from icr.engines.precision import Precision
from icr.engines.templates import Template
from icr.rewards import implicit_reward
from icr.rounds.stages.measure import SEQUENCES, EncodeConditionsTask, LogpsTask, encode_prompts
from icr.work.classify import UNIT
from icr.work.machine import Machine
from icr.work.shards import cut_table
from icr.work.steps import Step
from prompts.load import Prompt, load_prompts

KEY = "--reward"
LOG_RATIOS = ("cross-lingual", "multilingual")
"""Reward kinds of two models: KIND:POLICY,REFERENCE."""


@dataclass(frozen=True)
class Candidates:
    """The sampled candidates, and what they were sampled from."""

    machine: Machine
    key: str
    """Of the sampling step."""
    sampled: str
    """The model: a folder, a hub id or a .gguf file."""
    template: Template
    """Of the model."""
    precision: Precision
    """Of the models that score them."""
    chat_template: str | None
    """For models that are converted, see `Machine.folders`."""


class CandidateReward(Protocol):
    """A reward of candidates."""

    @property
    def name(self) -> str:
        """For tables, and of its folders."""

    @property
    def given(self) -> str:
        """As the user named it."""

    def step(self, key: str, precision: Precision) -> Step:
        """The scoring as a step.

        Args:
            key: of the sampling.
        """

    def scores(self, of: Candidates, rows: pa.Table, lang: str, folder: Path) -> Sequence[float | None]:
        """One number a candidate; None: too long to be read.

        Args:
            rows: of `icr.rows.RESPONSES`, of one language.
            folder: keeps what is scored until all is.
        """


@dataclass(frozen=True)
class ClassifierReward:
    """The logit of a sequence classifier, read as `icr rm eval` reads it."""

    name: str
    given: str
    model: str

    def step(self, key: str, precision: Precision) -> Step:
        inputs = {"candidates": key, "reward model": identify_model(self.model)}
        return Step(f"{self.name}/scoring", inputs, {"precision": precision})

    def scores(self, of: Candidates, rows: pa.Table, lang: str, folder: Path) -> Sequence[float | None]:
        model = of.machine.folders({self.model}, None)[self.model]
        scorer = Scorer(of.machine, model, of.precision, folder, f"{self.name}, {lang}")
        return scorer.scores(list(zip(rows["prompt"].to_pylist(), rows["response"].to_pylist(), strict=True)))


@dataclass(frozen=True)
class LogRatioReward:
    """β·[log π_θ(y|·) − log π_ref(y|·)], Eq. 9 or 12, without a length penalty."""

    name: str
    given: str
    kind: str
    policy: str
    reference: str
    beta: float
    prompts: Sequence[Prompt]
    """With the English original, where the kind reads it."""

    def step(self, key: str, precision: Precision) -> Step:
        inputs = {"candidates": key, "policy": identify_model(self.policy), "reference": identify_model(self.reference)}
        if self.kind == "cross-lingual":
            texts = ({"id": p.id, "lang": p.lang, "text": dump_conversation(p.english)} for p in self.prompts)
            inputs["English prompts"] = hash_rows(texts)
        return Step(f"{self.name}/scoring", inputs, {"kind": self.kind, "beta": self.beta, "precision": precision})

    def scores(self, of: Candidates, rows: pa.Table, lang: str, folder: Path) -> Sequence[float | None]:
        machine, named = of.machine, (of.sampled, self.policy, self.reference)
        folders = machine.folders(set(named), of.chat_template)
        sampled, policy, reference = (folders[name] for name in named)
        for model in (policy, reference):
            _check_tokens(sampled, model, self.given)
        task = EncodeConditionsTask(model=sampled, template=of.template)
        own = [p for p in self.prompts if p.lang == lang]
        conditions = encode_prompts(machine, folder / "conditions", task, self.kind, own)
        keys = zip(rows["prompt_id"].to_pylist(), rows["lang"].to_pylist(), strict=True)
        given = pa.array([conditions[key] for key in keys], pa.list_(pa.int32()))
        table = rows.select(["prompt_id", "lang", "sample", "token_ids"]).append_column("condition_ids", given)
        table = table.select(SEQUENCES.names).cast(SEQUENCES)
        values = []
        for name, model in (("policy", policy), ("reference", reference)):
            label = f"scores: {self.name}, {name}, {lang}"
            values.append(fill_logps(machine, folder / name, model, of.precision, table, label))
        return ratios_of(values[0], values[1], self.beta)


def fill_logps(
    machine: Machine, folder: Path, model: str, precision: Precision, table: pa.Table, label: str
) -> list[float | None]:
    """log π(y|·) of every row of SEQUENCES, of which those of one prompt are side by side; None: longer than the
    context.

    Args:
        folder: keeps what is done.

    Raises:
        UserError, StageFailed: as `Machine.fill`.
    """
    task = LogpsTask(model=model, precision=precision, batch_tokens=BATCH_TOKENS)
    each = max(1, table.num_rows // max(1, len(set(table["prompt_id"].to_pylist()))))
    shards = cut_table(table, max(1, SHARD // each), UNIT)
    tables, _ = machine.fill(folder, task, shards, label)
    return [value for part in tables for value in part["value"].to_pylist()]


def ratios_of(ours: Sequence[float | None], theirs: Sequence[float | None], beta: float) -> list[float | None]:
    """β·[log π_θ(y|·) − log π_ref(y|·)] of every response; None where one of the two is not known."""
    return [
        None if a is None or b is None else float(implicit_reward(a, b, beta))
        for a, b in zip(ours, theirs, strict=True)
    ]


def _check_tokens(sampled: str, model: str, given: str) -> None:
    where, do = f"{KEY} {given}: {model} and {sampled}", "name models with the tokenizer of the sampled one"
    check_same_vocabulary(sampled, model, where, do)


def read_reward(given: str, beta: float, sampled: str, prompts: Sequence[Prompt], path: str) -> CandidateReward:
    """A `--reward`: a classifier's folder or hub id, or KIND:POLICY,REFERENCE.

    Args:
        sampled: the model of the candidates.
        prompts: that it was asked.
        path: of the prompts, where the English ones are as well.

    Raises:
        UserError, ConfigError: everything that is wrong with the models, or with the English prompts.
    """
    kind, colon, rest = given.partition(":")
    if not colon or kind not in LOG_RATIOS:
        return ClassifierReward(short_name(given), given, locate_reward_model(given, KEY))
    policy, reference = read_two_models(rest, KEY, f"{kind}:")
    for model in (policy, reference):
        if find_folder(model) and find_folder(sampled):
            _check_tokens(str(find_folder(sampled)), str(find_folder(model)), given)
    known = add_english(prompts, path) if kind == "cross-lingual" else prompts
    name = f"{kind}-{short_name(rest.partition(',')[0].strip())}"
    return LogRatioReward(name, given, kind, policy, reference, beta, known)


def read_two_models(given: str, key: str, before: str = "") -> tuple[str, str]:
    """POLICY,REFERENCE: both located, and checked as far as their files are on this machine.

    Args:
        key: the option, for messages; `before` is what the user writes before the two.

    Raises:
        UserError, ConfigError: everything that is wrong with them.
    """
    names, where = [name.strip() for name in given.split(",")], f"{key} {before}{given}"
    if len(names) != 2 or not all(names):
        do = f"write {before}POLICY,REFERENCE, such as {before}org/model-instruct,org/model"
        raise UserError("a log-ratio needs two models", where=where, do=do)
    policy, reference = (locate(name, key) for name in names)
    if policy == reference:
        do = "name the aligned model first, and the one that it was aligned from second"
        raise UserError("policy and reference are one model: every reward is 0", where=where, do=do)
    for model in (policy, reference):
        check_located(model, key)
    return policy, reference


def add_english(prompts: Sequence[Prompt], path: str) -> list[Prompt]:
    """The prompts, each with its English original, which is joined by id.

    Raises:
        ConfigError: English prompts cannot be read, or some have none.
    """
    languages = list(dict.fromkeys(["en", *(p.lang for p in prompts)]))
    found = load_prompts(path, languages, key="--prompts", pivot="en")
    english: Mapping[str, Prompt] = {p.id: p for p in found if p.lang == "en"}
    return [replace(p, english=english[p.id].messages) for p in prompts]
