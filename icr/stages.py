"""The stages of a round: what each runs in worker processes, what it then puts together, and its counts.

A stage may be killed anywhere and called again: workers skip the shards that exist, and the light steps are
deterministic functions of finished files.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow.parquet as pq

from icr.config import Config
from icr.errors import UserError
from icr.files import read_rows, write_json, write_rows
from icr.flips import pair_flips
from icr.job import Job, Pass, Precision
from icr.pairs import Row, build_pairs, candidates
from icr.preflight import Inputs
from icr.rewards import cross_lingual_reward
from icr.rundir import PAIRS, REWARDS, RoundDir, RunDir, Stage
from icr.sampling import choose_backend, merge_shards
from icr.scoretable import score_language

Counts = dict[str, Any]


class Runner(Protocol):
    """How a stage gets heavy work done and speaks to the user."""

    def work(self, job: Job, label: str, *, spread: bool = False, gpus_each: int = 1) -> list[Counts]:
        """Run a job in one worker process, or (`spread`) in as many as the GPUs allow; returns their results."""

    def note(self, text: str) -> None:
        """One line for the user."""

    def precision(self, asked: str) -> Precision:
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

    @property
    def languages(self) -> list[str]:
        return self.config.prompts.languages

    def job(self, **values: Any) -> Job:
        return Job(config=self.config, run=str(self.run.path), round=self.round.number, **values)


def sample(context: Context) -> Counts:
    """Eq. 7: N responses of the policy for every prompt of every language."""
    job = context.job(task="sample", model=context.policy)
    counts = _sample(context, job, "responses", context.round.responses)
    return {"prompts": len(context.inputs.prompts), **counts}


def _sample(context: Context, job: Job, label: str, folder: Path) -> Counts:
    settings = context.config.sampling
    shards = job.sampling().shards
    backend = choose_backend(settings.backend)
    if backend != settings.backend and backend == "transformers":
        context.runner.note("vLLM is not installed: sampling with transformers' generate, several times slower")
    if shards.of_worker(0, 1):
        context.runner.work(job, label, spread=True, gpus_each=settings.tensor_parallel)
    languages = merge_shards(shards, folder, context.languages)
    return {
        "backend": backend,
        "responses": sum(c["responses"] for c in languages.values()),
        "tokens": sum(c["tokens"] for c in languages.values()),
        "languages": languages,
    }


def score(context: Context) -> Counts:
    """Eq. 9 (or 12) for every response, with α of Eq. 15 per language."""
    reward = context.config.reward
    reference = context.reference if reward.reference == "initial" else context.previous
    precision = context.runner.precision(reward.precision)
    checked = _sample_of_prompts(context) if precision == "bf16" else []
    logps = _logps(context, reference, precision, checked)
    lengths, counts = {}, {}
    for lang in context.languages:
        responses = _responses(context, lang)
        keys = [(r["prompt_id"], lang, r["sample"]) for r in responses]
        scored = score_language(
            responses, [logps["policy"][k] for k in keys], [logps["reference"][k] for k in keys], reward, lang
        )
        write_rows(context.round.rewards / f"{lang}.parquet", scored.rows, REWARDS)
        lengths[lang], counts[lang] = scored.length_penalty, scored.counts
    write_json(context.round.lengths, lengths)
    flips = _flips(context, logps, lengths, checked) if checked else None
    return {
        "responses": sum(c["responses"] for c in counts.values()),
        "precision": precision,
        "reference": reference,
        "flips": flips,
        "languages": counts,
    }


Logps = dict[tuple[str, str, int], float]
"""(prompt id, language, sample) → sum of log-probs in nats."""


def _sample_of_prompts(context: Context) -> list[tuple[str, str]]:
    """Evenly spread prompts on which bf16 is compared with fp32."""
    every = context.inputs.prompts
    wanted = min(context.config.reward.flip_check, len(every))
    return [(p.id, p.lang) for p in (every[i * len(every) // wanted] for i in range(wanted))]


def _logps(context: Context, reference: str, precision: Precision, checked: list[tuple[str, str]]) -> dict[str, Logps]:
    """Log-probs of the responses by the name of the pass: policy, reference, and of `checked` also in fp32."""
    models = (("policy", context.policy), ("reference", reference))
    passes = [Pass(name=name, model=model, precision=precision) for name, model in models]
    if checked:
        passes += [Pass(name=f"{name}-fp32", model=model, precision="fp32", only=checked) for name, model in models]
    job = context.job(task="logps", passes=passes)
    if any(job.scoring(part).of_worker(0, 1) for part in passes):
        context.runner.work(job, "log-probs", spread=True)
    return {
        part.name: {(r["prompt_id"], r["lang"], r["sample"]): r["logp"] for r in job.scoring(part).rows()}
        for part in passes
    }


def _responses(context: Context, lang: str, columns: Sequence[str] = ()) -> list[Row]:
    names = ["prompt_id", "lang", "sample", "prompt", "response", "token_ids", "finish_reason", *columns]
    rows: list[Row] = pq.read_table(context.round.responses / f"{lang}.parquet", columns=names).to_pylist()
    return rows


def _flips(
    context: Context, logps: dict[str, Logps], lengths: dict[str, Any], checked: list[tuple[str, str]]
) -> Counts:
    """On how many of the checked prompts the (best, worst) pair changes when the forward pass is fp32, not bf16."""
    flipped = compared = 0
    for lang in {lang for _, lang in checked}:
        ids = {prompt_id for prompt_id, of_lang in checked if of_lang == lang}
        responses = [r for r in _responses(context, lang) if r["prompt_id"] in ids]
        rewards = [r for r in read_rows(context.round.rewards / f"{lang}.parquet") if r["prompt_id"] in ids]
        for group in candidates(responses, rewards).values():
            if len(group) < 2:
                continue
            keys = [(c.response["prompt_id"], lang, c.response["sample"]) for c in group]
            again = cross_lingual_reward(
                [logps["policy-fp32"][k] for k in keys],
                [logps["reference-fp32"][k] for k in keys],
                [c.reward["length"] for c in group],
                context.config.reward.beta,
                lengths[lang]["alpha"],
            )
            flipped += pair_flips([c.reward["reward"] for c in group], again, [0] * len(group))
            compared += 1
    return {"checked": compared, "flipped": flipped}


def pair(context: Context) -> Counts:
    """Eq. 10: best and worst response of every prompt, under the prompt as asked."""
    pairs: list[Row] = []
    counts = {}
    for lang in context.languages:
        responses = _responses(context, lang, ["prompt_ids"])
        prompt_ids = {r["prompt_id"]: r["prompt_ids"] for r in responses}
        result = build_pairs(responses, read_rows(context.round.rewards / f"{lang}.parquet"), prompt_ids)
        pairs.extend(result.pairs)
        counts[lang] = result.counts
    if not pairs:
        raise UserError(
            "no prompt makes a pair: all responses are alike, empty or dropped",
            where=str(context.round.rewards),
            do="see the counts in the report; sample more responses, or at a higher temperature",
        )
    write_rows(context.round.pairs, pairs, PAIRS)
    return {"pairs": len(pairs), "languages": counts}


def judge(context: Context) -> Counts:
    """The policy's answers to the held-out prompts, against the baseline's, by the judge; both orders."""
    from eval.answers import load_baseline, read_answers
    from eval.summary import baseline_summary, summarise

    config, folder = context.config.judge, context.round.judge
    answers = folder / "answers"
    _sample(context, context.job(task="answers", model=context.trained), "answers", answers)
    if context.round.number == 0 and config.baseline == "round-0":
        summary = baseline_summary(answers)
    else:
        job = context.job(task="verdicts", model=context.judge_model or "")
        name = context.runner.work(job, "verdicts")[0]["judge"]
        baseline = load_baseline(job.baseline(), read_answers(answers))
        summary = summarise(answers, baseline, folder, name, config.baseline)
    write_json(context.round.summary, summary)
    average = summary["average"]
    return {
        "win_rate": average["win_rate"],
        "lc_win_rate": average["lc_win_rate"],
        "unscored": sum(lang["unscored"] for lang in summary["languages"].values()),
    }


def tidy(folder: RoundDir, stage: Stage) -> None:
    """Remove what a stage needed only until its record said that it is done."""
    leftovers = {
        "sample": [folder.responses / "shards"],
        "score": [folder.rewards / "shards"],
        "judge": [folder.judge / "answers" / "shards"],
        "align": [folder.train / "reference"],
        "train": [folder.train / "reference"],
    }
    for path in leftovers.get(stage, []):
        shutil.rmtree(path, ignore_errors=True)
