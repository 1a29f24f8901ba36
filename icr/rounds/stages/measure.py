"""Worker tasks that give every response of the round a number: log-probs, a classifier's logit, a user's own reward.

A task runs its job's passes one after the other, with one model in memory at once, and writes shard by shard.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from icr.base.files import write_rows
from icr.base.progress import EventFile, Reporter, Sum
from icr.engines.models import free, load_scorer
from icr.rows import Response
from icr.work.job import Job, Pass
from prompts.load import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from icr.rounds.stages.own_reward import GivenRow


VALUES = pa.schema([("prompt_id", pa.string()), ("lang", pa.string()), ("sample", pa.int32()), ("value", pa.float64())])
SCORED = ("prompt_id", "lang", "sample", "token_ids")
TEXTS = (*SCORED, "response", "finish_reason")

Prompts = dict[tuple[str, str], Prompt]
"""By (prompt id, language)."""
Measure = Callable[[list[Response], Prompts, Reporter], Sequence[float | None]]
"""(rows, their prompts, reporter) → a number per row; None: there can be none."""


def logps(job: Job, index: int, events: EventFile) -> dict[str, Any]:
    """Sums of log-probs in nats, conditioned as the reward kind says; for `translate`, of the translations."""
    from icr.engines.models import load_tokenizer, prompt_token_ids
    from icr.rewards import condition

    kind = job.config.reward.kind
    tokenizer = load_tokenizer(job.passes[0].model, job.config.models.chat_template)

    @contextmanager
    def opened(part: Pass) -> Iterator[Measure]:
        model = load_scorer(part.model, part.precision)

        def measure(rows: list[Response], prompts: Prompts, reporter: Reporter) -> Sequence[float]:
            asked = {
                key: prompt_token_ids(tokenizer, condition(kind, p.lang, p.text, p.english))
                for key, p in prompts.items()
            }
            conditions = [asked[r["prompt_id"], r["lang"]] for r in rows]
            return score(job, model, conditions, [r["token_ids"] for r in rows], reporter)

        yield measure
        free(model)

    def read(keys: Iterable[tuple[str, str]]) -> list[Response]:
        if kind != "translate":
            return responses(job, keys)
        original = [key for key in keys if key[1] == "en"]
        return responses(job, original) + translations(job, set(keys) - set(original))

    return _measure(job, index, opened, read, events)


def classify(job: Job, index: int, events: EventFile) -> dict[str, Any]:
    """The logit of a sequence classifier, given the prompt as asked."""
    from icr.engines.classifier import Classifier

    @contextmanager
    def opened(part: Pass) -> Iterator[Measure]:
        classifier = Classifier(part.model, part.precision, job.config.reward.batch_tokens)

        def measure(rows: list[Response], prompts: Prompts, reporter: Reporter) -> Sequence[float | None]:
            pairs = [(prompts[r["prompt_id"], r["lang"]].text, r["response"]) for r in rows]
            return classifier.logits(pairs, reporter)

        yield measure
        free(classifier.model)

    return _measure(job, index, opened, lambda keys: responses(job, keys, TEXTS), events)


def custom(job: Job, index: int, events: EventFile) -> dict[str, Any]:
    """The rewards of a user's own class."""
    from icr.rounds.stages.own_reward import OWN, call

    name = job.config.reward.kind

    @contextmanager
    def opened(part: Pass) -> Iterator[Measure]:
        reward = OWN.make(name)

        def measure(rows: list[Response], prompts: Prompts, reporter: Reporter) -> Sequence[float]:
            values = call(reward, name, [_give_row(row, prompts[row["prompt_id"], row["lang"]]) for row in rows])
            reporter.progress(len(rows), len(rows))
            return values

        yield measure

    return _measure(job, index, opened, lambda keys: responses(job, keys, TEXTS), events)


def _give_row(row: Response, prompt: Prompt) -> GivenRow:
    return {
        "prompt_id": row["prompt_id"],
        "lang": row["lang"],
        "sample": row["sample"],
        "prompt": prompt.text,
        "english": prompt.english,
        "response": row["response"],
        "token_ids": row["token_ids"],
        "finish_reason": row["finish_reason"],
    }


def _measure(
    job: Job,
    index: int,
    opened: Callable[[Pass], AbstractContextManager[Measure]],
    read: Callable[[Iterable[tuple[str, str]]], list[Response]],
    events: EventFile,
) -> dict[str, Any]:
    """Run this worker's share of the job's passes, a shard at a time; a pass without work loads nothing."""
    work = [(part, shards, shards.of_worker(index, job.of)) for part in job.passes for shards in [job.scoring(part)]]
    prompts_to_do = sum(len(shards.part(s)) for _, shards, todo in work for s in todo)
    progress = Sum(events, prompts_to_do * job.config.sampling.n)
    for part, shards, todo in work:
        if not todo:
            continue
        with opened(part) as measure:
            for shard in todo:
                prompts = {(p.id, p.lang): p for p in shards.part(shard)}
                rows = read(prompts)
                values = measure(rows, prompts, progress)
                measured = [
                    {"prompt_id": row["prompt_id"], "lang": row["lang"], "sample": row["sample"], "value": value}
                    for row, value in zip(rows, values, strict=True)
                ]
                write_rows(shards.path(shard), measured, VALUES)
    return {}


def responses(job: Job, keys: Iterable[tuple[str, str]], columns: Sequence[str] = SCORED) -> list[Response]:
    """The rows of these (prompt id, language), read without holding the whole round in memory."""
    rows: list[Response] = []
    for lang, ids in _by_language(keys):
        table = pq.read_table(
            job.folder.responses / f"{lang}.parquet", columns=list(columns), filters=[("prompt_id", "in", ids)]
        )
        rows.extend(table.to_pylist())
    return rows


def translations(job: Job, keys: Iterable[tuple[str, str]]) -> list[Response]:
    """The translations into English that did not fail, of these (prompt id, language)."""
    rows: list[Response] = []
    for lang, ids in _by_language(keys):
        path = job.folder.translations / f"{lang}.parquet"
        table = pq.read_table(path, columns=[*SCORED, "failed"], filters=[("prompt_id", "in", ids)])
        rows.extend(row for row in table.to_pylist() if row["failed"] is None)
    return rows


def _by_language(keys: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    ids_of: dict[str, set[str]] = defaultdict(set)
    for prompt_id, lang in keys:
        ids_of[lang].add(prompt_id)
    return [(lang, sorted(ids)) for lang, ids in sorted(ids_of.items())]


def score(
    job: Job, model: PreTrainedModel, prompts: list[list[int]], sequences: list[list[int]], reporter: Reporter
) -> list[float]:
    """The log-probs of `sequences`, in nats."""
    from icr.scoring import sequence_logprobs

    sums = sequence_logprobs(model, prompts, sequences, batch_tokens=job.config.reward.batch_tokens, reporter=reporter)
    return [float(s) for s in sums]
