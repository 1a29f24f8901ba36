"""The stages of a round: what each runs in worker processes, what it then puts together, and its counts.

A stage may be killed anywhere and called again: workers skip the shards that exist, and the light steps are
deterministic functions of finished files.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from icr import lidr
from icr.config import Config
from icr.engines.precision import Precision
from icr.errors import UserError
from icr.files import read_rows, write_json, write_rows
from icr.flips import pair_flips
from icr.job import Job
from icr.pairs import Row, build_pairs, candidates
from icr.preflight import Inputs
from icr.rewardkinds import RewardKind, open_kind
from icr.rewards import penalised
from icr.rundir import PAIRS, REWARDS, RoundDir, RunDir, Stage
from icr.sampling import choose_backend, merge_shards
from icr.scoretable import reward_language

Counts = dict[str, Any]


class Runner(Protocol):
    """How a stage gets heavy work done and speaks to the user."""

    def work(self, job: Job, label: str, *, spread: bool = False, gpus_each: int = 1) -> list[Counts]:
        """Run a job in one worker process, or (`spread`) in as many as the GPUs allow; returns their results."""

    def note(self, text: str) -> None:
        """One line for the user."""

    def precision(self, asked: Literal["auto", "fp32", "bf16"]) -> Precision:
        """`auto` resolved for this machine."""

    def train(self, spec: Any, label: str) -> Counts:
        """Run a `loops.train.TrainSpec` under torchrun; returns its counts."""


@dataclass(frozen=True)
class Context:
    """One stage of one round of one run."""

    run: RunDir
    round: RoundDir
    config: Config
    inputs: Inputs
    policy: str
    """The policy that the round starts from: π_θ^{t-1}; in round 0, π_θ⁰."""
    trained: str
    """The policy that the round ends with: π_θ^t; in round 0, π_θ⁰."""
    reference: str
    """π_I."""
    previous: str
    """The policy one round earlier: π_θ^{t-2}, and π_I in round 1."""
    judge_model: str | None
    runner: Runner
    shared: Callable[[str], str] = lambda name: ""
    """Where several runs share what is measured of the responses, by the measurement's name; "": nothing is shared."""

    @property
    def languages(self) -> list[str]:
        return self.config.prompts.languages

    def job(self, **values: Any) -> Job:
        return Job(config=self.config, run=str(self.run.path), round=self.round.number, **values)


def sample(context: Context) -> Counts:
    """Eq. 7: N responses of the policy for every prompt of every language."""
    job = context.job(task="sample", model=context.policy)
    counts = run_sampling(context.runner, job, "responses", context.round.responses)
    return {"prompts": len(context.inputs.prompts), **counts}


def run_sampling(runner: Runner, job: Job, label: str, folder: Path) -> Counts:
    """Sample the job's shards into `folder`/LANG.parquet."""
    settings = job.config.sampling
    shards = job.sampling().shards
    backend = choose_backend(settings.backend)
    if backend != settings.backend and backend == "transformers":
        runner.note("vLLM is not installed: sampling with transformers' generate, several times slower")
    if shards.of_worker(0, 1):
        runner.work(job, label, spread=True, gpus_each=settings.tensor_parallel)
    languages = merge_shards(shards, folder, job.config.prompts.languages)
    return {
        "backend": backend,
        "responses": sum(c["responses"] for c in languages.values()),
        "tokens": sum(c["tokens"] for c in languages.values()),
        "languages": languages,
    }


def score(context: Context) -> Counts:
    """Every response's reward, of the kind that the config says, with α of Eq. 15 per language."""
    reward = context.config.reward
    if reward.kind == "lidr":
        return lidr.score(context, {lang: _responses(context, lang) for lang in context.languages})
    kind = open_kind(context)
    lengths, counts = {}, {}
    for lang in context.languages:
        responses = _responses(context, lang)
        scored = reward_language(responses, kind.scores(responses, lang), reward, lang)
        write_rows(context.round.rewards / f"{lang}.parquet", scored.rows, REWARDS)
        lengths[lang], counts[lang] = scored.length_penalty, scored.counts
    write_json(context.round.lengths, lengths)
    flips = _flips(context, kind, lengths) if kind.checked else None
    total = sum(c["responses"] for c in counts.values())
    return {"responses": total, **kind.facts, "flips": flips, "languages": counts}


def _responses(context: Context, lang: str, columns: Sequence[str] = ()) -> list[Row]:
    names = ["prompt_id", "lang", "sample", "prompt", "response", "token_ids", "finish_reason", *columns]
    return read_rows(context.round.responses / f"{lang}.parquet", names)


def _flips(context: Context, kind: RewardKind, lengths: dict[str, Any]) -> Counts:
    """On how many of the checked prompts the (best, worst) pair changes when the forward pass is fp32, not bf16."""
    flipped = compared = 0
    for lang in {lang for _, lang in kind.checked}:
        ids = {prompt_id for prompt_id, of_lang in kind.checked if of_lang == lang}
        responses = [r for r in _responses(context, lang) if r["prompt_id"] in ids]
        rewards = [r for r in read_rows(context.round.rewards / f"{lang}.parquet") if r["prompt_id"] in ids]
        for group in candidates(responses, rewards).values():
            if len(group) < 2:
                continue
            scores = kind.scores([c.response for c in group], lang, again=True)
            again = penalised(
                np.asarray(scores.rewards, np.float64), [c.reward["length"] for c in group], lengths[lang]["alpha"]
            )
            flipped += pair_flips([c.reward["reward"] for c in group], again, [0] * len(group))
            compared += 1
    return {"checked": compared, "flipped": flipped}


def pair(context: Context) -> Counts:
    """Eq. 10: best and worst response of every prompt, under the prompt as asked; or the pairs of LIDR."""
    if context.config.reward.kind == "lidr":
        responses = {lang: _responses(context, lang, ["prompt_ids"]) for lang in context.languages}
        pairs, counts = lidr.pairs(context, responses)
    else:
        pairs, counts = _best_and_worst(context)
    if not pairs:
        raise UserError(
            "no prompt makes a pair: all responses are alike, empty or dropped",
            where=str(context.round.rewards),
            do="see the counts in the report; sample more responses, or at a higher temperature",
        )
    write_rows(context.round.pairs, pairs, PAIRS)
    return {"pairs": len(pairs), "languages": counts}


def _best_and_worst(context: Context) -> tuple[list[Row], Counts]:
    pairs: list[Row] = []
    counts = {}
    for lang in context.languages:
        responses = _responses(context, lang, ["prompt_ids"])
        prompt_ids = {r["prompt_id"]: r["prompt_ids"] for r in responses}
        result = build_pairs(responses, read_rows(context.round.rewards / f"{lang}.parquet"), prompt_ids)
        pairs.extend(result.pairs)
        counts[lang] = result.counts
    return pairs, counts


def tidy(folder: RoundDir, stage: Stage) -> None:
    """Remove what a stage needed only until its record said that it is done."""
    leftovers = {
        "sample": [folder.responses / "shards"],
        "score": [folder.rewards / "shards", folder.translations / "shards"],
        "judge": [folder.judge / "answers" / "shards", folder.judge / "mtbench" / "answers" / "shards"],
        "align": [folder.train / "reference"],
        "train": [folder.train / "reference"],
    }
    for path in leftovers.get(stage, []):
        shutil.rmtree(path, ignore_errors=True)
