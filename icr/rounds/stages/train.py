"""The stages that train: English alignment in round 0, and each round's own training. Both halves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pyarrow as pa

from icr.base.conversation import load_conversation
from icr.base.files import read_json, write_table
from icr.base.progress import Reporter
from icr.config.schema import Config, Train
from icr.engines.precision import Numerics, computing, weights_of
from icr.engines.sizes import measure_checkpoint
from icr.engines.templates import Arguments, Template
from icr.rounds.stages.measure import sum_fitting
from icr.rows import PAIRS, read_pairs
from icr.work.pool import Task
from icr.work.resident import Resident
from icr.work.shards import cut_table
from loops.disk import check_disk, estimate_disk, folder_size
from loops.numerics import training_numerics
from loops.spec import CardFacts, TrainSpec

if TYPE_CHECKING:
    from icr.rounds.context import Context
    from icr.work.machine import Machine
    from icr.work.runner import Counts

ENGLISH = pa.schema([("prompt", pa.string()), ("chosen", pa.string()), ("rejected", pa.string())])
REQUESTS = pa.schema([("prompt_ids", pa.list_(pa.int32())), ("response_ids", pa.list_(pa.int32()))])
SUMS = pa.schema([("logp", pa.float64())])


class EncodeTask(Task):
    """In: ENGLISH. Out: PAIRS, each answer ended as the chat template ends a turn."""

    name: ClassVar[str] = "encode"
    lane: ClassVar[str] = "scorer"

    model: str
    template: Template
    stop: tuple[str, ...] = ()
    """`sampling.stop`."""


def encode_pairs(state: Resident, task: EncodeTask, table: pa.Table, reporter: Reporter) -> pa.Table:
    from icr.engines.stops import trained_end
    from icr.engines.templates import prompt_token_ids
    from icr.engines.tokens import encode_text

    tokenizer = state.tokenizer(task.model, task.template)
    end = trained_end(tokenizer, state.stops(task.model, task.template, task.stop))

    def answer(text: str) -> list[int]:
        return [*encode_text(tokenizer, text), *end]

    rows = [
        {
            "prompt_id": f"alignment-{number}",
            "lang": "en",
            **pair,
            "prompt_ids": prompt_token_ids(tokenizer, load_conversation(pair["prompt"])),
            "chosen_ids": answer(pair["chosen"]),
            "rejected_ids": answer(pair["rejected"]),
        }
        for number, pair in enumerate(table.to_pylist(), 1)
    ]
    return pa.Table.from_pylist(rows, schema=PAIRS)


class ReferenceTask(Task):
    """In: REQUESTS. Out: SUMS, log-probs in nats under the model that is trained, as it is before its first step and
    as the training computes them.

    Null where a sequence is longer than its context; the training drops and counts such rows.
    """

    name: ClassVar[str] = "reference"
    lane: ClassVar[str] = "scorer"

    model: str
    numerics: Numerics
    batch_tokens: int


def score_requests(state: Resident, task: ReferenceTask, table: pa.Table, reporter: Reporter) -> pa.Table:
    from icr.engines.context import context_length

    prompts, responses = table["prompt_ids"].to_pylist(), table["response_ids"].to_pylist()
    model, context = state.scorer(task.model, weights_of(task.numerics)), context_length(task.model)
    with computing(task.numerics, model):
        sums = sum_fitting(model, context, prompts, responses, batch_tokens=task.batch_tokens, reporter=reporter)
    return pa.table({"logp": sums}, schema=SUMS)


def align(context: Context) -> Counts:
    """π_θ⁰ out of π_I: DPO+NLL on English pairs, for those who have no English-aligned model."""
    alignment = context.config.alignment
    assert alignment is not None
    settings = alignment.model_dump(exclude={"pairs", "limit"})
    config = context.config.model_copy(
        update={"objective": "dpo", "train": context.config.train.model_copy(update=settings)}
    )
    texts = pa.Table.from_pylist([dict(pair) for pair in context.inputs.alignment], schema=ENGLISH)
    task = EncodeTask(model=context.reference, template=context.template, stop=tuple(config.sampling.stop))
    pairs = context.round.train / "alignment.parquet"
    write_table(pairs, context.machine.run(task, texts, "English pairs"))
    facts = CardFacts(round=0, languages=["en"], pairs=texts.num_rows)
    return _train(context, config, context.reference, pairs, facts)


def train(context: Context) -> Counts:
    """π_θ^t out of π_θ^{t-1}, on the round's pairs (Eq. 11, Eq. 16, or the user's own objective)."""
    lengths = read_json(context.round.lengths)
    by_language = context.round.record.stages["pair"].counts["languages"]
    facts = CardFacts(
        round=context.round.number,
        languages=context.languages,
        pairs={lang: by_language[lang]["pairs"] for lang in context.languages},
        alpha={lang: fit["alpha"] for lang, fit in lengths.items()},
        length_unit=context.config.reward.length_unit,
    )
    return _train(context, context.config, context.policy, context.round.pairs, facts)


def _train(context: Context, config: Config, model: str, pairs: Path, facts: CardFacts) -> Counts:
    """The round's training, of `model`, which is also its reference."""
    facts = facts.model_copy(update={"base": context.name_of(model), "reference": context.name_of(context.reference)})
    job = PairTraining(
        objective=config.objective,
        train=config.train.model_copy(update={"report_to": "none"}),  # icr.rounds.tracker reports the whole run
        model=model,
        pairs=pairs,
        output=context.round.model,
        work=context.round.train,
        key=context.step.key,
        shard_size=context.shard_size,
        batch_tokens=config.reward.batch_tokens,
        chat_template=config.models.chat_template,
        template_arguments=config.models.template_arguments,
        facts=facts,
    )
    return train_on_pairs(context.machine, job)


@dataclass(frozen=True)
class PairTraining:
    """A training on pairs, wherever they come from."""

    objective: str
    train: Train
    model: str
    """That is trained, and the training's reference: a folder."""
    pairs: Path
    """A table of `icr.rows.PAIRS`."""
    output: Path
    work: Path
    key: str
    """Of the step: unfinished reference log-probs are kept by it."""
    shard_size: int
    batch_tokens: int
    """In one forward pass of the reference."""
    chat_template: str | None
    template_arguments: Arguments
    facts: CardFacts
    name: str | None = None
    """As for `Machine.train`."""


def train_on_pairs(machine: Machine, job: PairTraining) -> Counts:
    """Score the pairs under the training reference, which is the model itself, then train it. Returns its counts."""
    from loops.data import reference_numerics

    train = job.train.model_copy(update={"precision": machine.precision(job.train.precision)})
    data, numerics, size = job.work / "data.parquet", training_numerics(train), measure_checkpoint(job.model)
    if size is not None and not job.output.exists():
        there = folder_size(job.work / "checkpoints") + folder_size(job.work / "best")
        check_disk(estimate_disk(train, size), job.work, there)
    if not job.output.exists() and not (data.exists() and reference_numerics(data) == numerics):
        _write_data(machine, job, train, data, numerics)
    made = {"objective": job.objective, "settings": train.model_dump(mode="json")}
    spec = TrainSpec(
        model=job.model,
        data=data,
        output=job.output,
        work=job.work,
        events=Path(),
        objective=job.objective,
        train=train,
        chat_template=Path(job.chat_template) if job.chat_template else None,
        template_arguments=job.template_arguments,
        facts=job.facts.model_copy(update=made),
    )
    return machine.train(spec, f"training ({job.objective})", job.name)


def _write_data(machine: Machine, job: PairTraining, train: Train, data: Path, numerics: Numerics) -> None:
    """The training's data file: the objective's rows, with what its reference says of them."""
    from loops.data import write_training_data
    from loops.families import family_of
    from loops.objective import make_objective

    objective = make_objective(job.objective, beta=train.beta, nll_weight=train.nll_weight)
    rows = read_pairs(job.pairs)
    requests = objective.reference_requests(rows, seed=train.seed)
    table = pa.table(
        {"prompt_ids": [p for p, _ in requests], "response_ids": [r for _, r in requests]}, schema=REQUESTS
    )
    task = ReferenceTask(model=job.model, numerics=numerics, batch_tokens=job.batch_tokens)
    folder = data.parent / "reference" / job.key[:16] / numerics
    tables, _ = machine.fill(folder, task, cut_table(table, job.shard_size), "reference log-probs")
    sums = [math.nan if logp is None else logp for t in tables for logp in t["logp"].to_pylist()]
    trained_on = objective.dataset(rows, sums, seed=train.seed)
    write_training_data(data, trained_on, family_of(objective).columns, numerics)
