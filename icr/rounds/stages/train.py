"""The stages that train: English alignment in round 0, and each round's own training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from icr.base.files import read_json, read_rows, write_rows
from icr.base.progress import EventFile, Sum
from icr.config.schema import Config
from icr.engines.models import load_scorer
from icr.rounds.context import Context
from icr.rounds.stages.measure import score
from icr.rows import PAIRS
from icr.work.job import Job
from icr.work.runner import Counts
from icr.work.shards import Shards
from loops.data import write_training_data
from loops.families import family_of
from loops.objective import make_objective
from loops.spec import TrainSpec
from prompts.preferences import read_alignment


def align(context: Context) -> Counts:
    """π_θ⁰ out of π_I: DPO+NLL on English pairs, for those who have no English-aligned model."""
    alignment = context.config.alignment
    assert alignment is not None
    settings = alignment.model_dump(exclude={"pairs", "limit"})
    config = context.config.model_copy(
        update={"objective": "dpo", "train": context.config.train.model_copy(update=settings)}
    )
    pairs = context.round.train / "alignment.parquet"
    if not pairs.exists():
        job = context.job(task="alignment", model=context.reference, pairs=str(pairs))
        context.runner.work(job, "English pairs")
    facts = {"round": 0, "languages": ["en"], "pairs": len(context.inputs.alignment)}
    return _train(context, config, context.reference, pairs, facts)


def train(context: Context) -> Counts:
    """π_θ^t out of π_θ^{t-1}, on the round's pairs (Eq. 11, Eq. 16, or the user's own objective)."""
    lengths = read_json(context.round.lengths)
    by_language = context.round.record.stages["pair"].counts["languages"]
    facts = {
        "round": context.round.number,
        "languages": context.languages,
        "pairs": {lang: by_language[lang]["pairs"] for lang in context.languages},
        "alpha": {lang: fit["alpha"] for lang, fit in lengths.items()},
        "length_unit": context.config.reward.length_unit,
    }
    return _train(context, context.config, context.policy, context.round.pairs, facts)


def _train(context: Context, config: Config, model: str, pairs: Path, facts: dict[str, Any]) -> Counts:
    """Score the pairs under the training reference, which is `model` itself, then train it."""
    folder = context.round.train
    precision = context.runner.precision(config.train.precision)
    config = config.model_copy(update={"train": config.train.model_copy(update={"precision": precision})})
    data = folder / "data.parquet"
    if not data.exists() and not context.round.model.exists():
        job = context.job(task="requests", model=model, pairs=str(pairs), precision=precision)
        job = job.model_copy(update={"config": config})
        shards = reference_shards(job)
        if shards.of_worker(0, 1):
            context.runner.work(job, "reference log-probs", spread=True)
        sums = [row["logp"] for row in shards.rows()]
        objective = make_objective(config.objective, beta=config.train.beta, nll_weight=config.train.nll_weight)
        rows = objective.dataset(read_rows(pairs), sums, seed=config.train.seed)
        write_training_data(data, rows, family_of(objective).columns)
    template = config.models.chat_template
    spec = TrainSpec(
        model=model,
        data=data,
        output=context.round.model,
        work=folder,
        events=Path(),
        objective=config.objective,
        train=config.train,
        chat_template=Path(template) if template else None,
        facts={
            **facts,
            "objective": config.objective,
            "base": model,
            "reference": context.reference,
            "settings": config.train.model_dump(mode="json"),
        },
    )
    return context.runner.train(spec, f"training ({config.objective})")


SUMS = pa.schema([("logp", pa.float64())])


def reference_shards(job: Job) -> Shards[tuple[list[int], list[int]]]:
    """The sequences of the job's `pairs` that the training's objective wants scored, cut into shards."""
    train = job.config.train
    objective = make_objective(job.config.objective, beta=train.beta, nll_weight=train.nll_weight)
    requests = objective.reference_requests(read_rows(Path(job.pairs)), seed=train.seed)
    return Shards(job.folder.train / "reference", requests, job.config.sampling.shard_size)


def requests(job: Job, index: int, events: EventFile) -> dict[str, Any]:
    """What training needs from its reference, before it starts: log-probs of its sequences."""
    work = reference_shards(job)
    todo = work.of_worker(index, job.of)
    if not todo:
        return {}
    model = load_scorer(job.model, job.precision)
    progress = Sum(events, sum(len(work.part(s)) for s in todo))
    for shard in todo:
        part = work.part(shard)
        sums = score(job, model, [p for p, _ in part], [r for _, r in part], progress)
        write_rows(work.path(shard), [{"logp": s} for s in sums], SUMS)
    return {}


def alignment(job: Job, index: int, events: EventFile) -> dict[str, Any]:
    """The English pairs of the alignment as token ids, each answer ended as the chat template ends a turn."""
    from icr.engines.models import end_of_turn_id, load_tokenizer, prompt_token_ids

    tokenizer = load_tokenizer(job.model, job.config.models.chat_template)
    end = end_of_turn_id(tokenizer)
    assert job.config.alignment is not None
    texts = read_alignment(job.config.alignment.pairs)[: job.config.alignment.limit]

    def answer(text: str) -> list[int]:
        return [*tokenizer(text, add_special_tokens=False)["input_ids"], end]

    rows = [
        {
            "prompt_id": f"alignment-{number}",
            "lang": "en",
            **pair,
            "prompt_ids": prompt_token_ids(tokenizer, pair["prompt"]),
            "chosen_ids": answer(pair["chosen"]),
            "rejected_ids": answer(pair["rejected"]),
        }
        for number, pair in enumerate(texts, 1)
    ]
    write_rows(Path(job.pairs), rows, PAIRS)
    return {"pairs": len(rows)}
