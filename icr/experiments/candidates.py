"""Candidates of a model: how they are sampled, and how a reward scores them."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from icr.base.content import hash_file, hash_rows, identify_model
from icr.base.errors import UserError, some
from icr.base.fields import Fields
from icr.base.files import write_table
from icr.config.best_of_n import BestOfNConfig
from icr.config.load import flatten
from icr.engines.context import context_length
from icr.engines.open import EngineSettings
from icr.engines.templates import Template
from icr.experiments.best_answers import SCORES
from icr.experiments.candidate_rewards import KEY, CandidateReward, Candidates
from icr.work.machine import Machine
from icr.work.sampling import SampleTask, bound_tokens, sample_prompts
from icr.work.settings import USES
from icr.work.shards import shard_size
from icr.work.steps import Step
from prompts.load import Prompt

SAMPLING = "sampling"
"""The name of the step."""
TOO_LONG = "too_long"


def describe_sampling(config: BestOfNConfig, model: str, prompts: Sequence[Prompt], machine: Machine) -> Step:
    """The sampling as a step: what the candidates depend on.

    Args:
        model: as `icr.engines.folders.locate` gives it.
    """
    made = {"model": identify_model(model)}
    for lang in config.prompts.languages:
        texts = ({"id": p.id, "text": p.text} for p in prompts if p.lang == lang)
        made[f"prompts in {lang}"] = hash_rows(texts)
    if config.chat_template:
        made["chat template"] = hash_file(Path(config.chat_template))
    used = {key for key, stages in USES.items() if "sample" in stages} - {"prompts.limit"}  # the prompts say it
    settings = {key: value for key, value in flatten(config).items() if key in used}
    settings |= {"sampling.precision": machine.precision(config.sampling.precision)}
    return Step(SAMPLING, made, settings | {"template_arguments": config.template_arguments})


def sample_candidates(
    folder: Path,
    config: BestOfNConfig,
    model: str,
    prompts: Sequence[Prompt],
    template: Template,
    key: str,
    machine: Machine,
) -> Fields:
    """`folder`/LANG.parquet, rows of `icr.rows.RESPONSES`; an engine computes the prompt of n candidates once.

    Args:
        model: as `icr.engines.folders.locate` gives it.
        key: of the step, which unfinished work is kept by.
    """
    settings = config.sampling
    located = machine.folders({model}, config.chat_template)[model]
    longest = bound_tokens([p.text for p in prompts]) + settings.max_tokens
    engine = EngineSettings.of(settings, min(context_length(located), longest), gpu=machine.gpus > 0)
    if settings.backend == "auto" and engine.backend == "transformers":
        machine.note_once("vLLM is not installed: sampling with transformers' generate, which is several times slower")
    task = SampleTask(
        model=located,
        template=template,
        stop=tuple(settings.stop),
        engine=engine,
        n=settings.n,
        temperature=settings.temperature,
        top_p=settings.top_p,
        max_tokens=settings.max_tokens,
        seed=settings.seed,
        round=0,
    )
    size = shard_size(settings.shard_size, machine.gpus)
    shards = folder / "shards"
    counts = sample_prompts(machine, task, prompts, folder, shards / key[:16], "candidates", size)
    shutil.rmtree(shards, ignore_errors=True)
    return {"prompts": len(prompts), "n": settings.n, **counts}


def score_candidates(
    folder: Path, samples: Path, languages: Sequence[str], reward: CandidateReward, of: Candidates, key: str
) -> Fields:
    """`folder`/LANG.parquet of every language, rows of SCORES.

    Args:
        samples: the folder of the candidates.
        key: of the step, which unfinished work is kept by.

    Raises:
        UserError: scores that are not finite.
    """
    shards, counts = folder / "shards" / key[:16], {}
    for lang in languages:
        rows = pq.read_table(samples / f"{lang}.parquet")
        scores = reward.scores(of, rows, lang, shards / lang)
        _check_scores(scores, reward, lang)
        write_table(folder / f"{lang}.parquet", _table(rows, scores))
        counts[lang] = {"candidates": len(scores), TOO_LONG: sum(score is None for score in scores)}
    shutil.rmtree(folder / "shards", ignore_errors=True)
    return {"languages": counts}


def _check_scores(scores: Sequence[float | None], reward: CandidateReward, lang: str) -> None:
    wrong = [str(score) for score in scores if score is not None and not math.isfinite(score)]
    if wrong:
        raise UserError(
            f"{len(wrong)} of {len(scores)} scores in {lang} are not finite numbers: {some(wrong)}",
            where=f"{KEY} {reward.given}",
            do="check the weights of the reward's models",
        )


def _table(rows: pa.Table, scores: Sequence[float | None]) -> pa.Table:
    """SCORES of candidates."""
    columns = {
        **{name: rows[name] for name in ("prompt_id", "lang", "sample")},
        "score": pa.array(scores, pa.float64()),
        "tokens": pc.list_value_length(rows["token_ids"]),
        "dropped": pa.array([TOO_LONG if score is None else None for score in scores], pa.string()),
    }
    return pa.table(columns).cast(SCORES)
