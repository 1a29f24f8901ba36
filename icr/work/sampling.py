"""Eq. 7: N responses from the policy for every prompt of every language, in shards that survive a kill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from icr.base.errors import UserError
from icr.base.files import atomic_path, write_rows
from icr.base.progress import EventFile, Reporter
from icr.engines.base import Decoding, Engine, Request, request_seed
from icr.engines.open import choose_backend, open_engine
from icr.rows import RESPONSES
from icr.work.job import Job
from icr.work.runner import Counts, Runner
from icr.work.shards import Shards
from prompts.load import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class SamplingJob:
    """Everything that decides what is sampled."""

    shards: Shards[Prompt]
    n: int
    decoding: Decoding
    seed: int
    round_number: int


def sampling_of(job: Job) -> SamplingJob:
    """The round's responses (task "sample") or the answers to the held-out prompts (task "answers")."""
    s, j = job.config.sampling, job.config.judge
    if job.task == "answers":
        shards = Shards(job.evaluation / "answers" / "shards", job.heldout(), s.shard_size)
        # held-out answers use the same noise in every round, so that rounds differ by the policy alone
        return SamplingJob(shards, 1, Decoding(j.temperature, j.top_p, j.max_tokens), s.seed, 0)
    shards = Shards(job.folder.responses / "shards", job.prompts(), s.shard_size)
    if job.config.reward.kind == "lidr":
        return SamplingJob(shards, 1, Decoding(0.0, 1.0, s.max_tokens), s.seed, job.round)
    return SamplingJob(shards, s.n, Decoding(s.temperature, s.top_p, s.max_tokens), s.seed, job.round)


def sample_shards(
    job: SamplingJob,
    todo: Sequence[int],
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    token_ids: dict[tuple[str, str], list[int]],
    reporter: Reporter,
) -> None:
    """Sample the shards `todo` and write each as soon as it is whole.

    Args:
        token_ids: (prompt id, language) → templated prompt.
    """
    done = tokens = 0
    total = sum(len(job.shards.part(s)) for s in todo) * job.n
    reporter.progress(0, total)
    for shard in todo:
        keys = [(prompt, k) for prompt in job.shards.part(shard) for k in range(job.n)]
        requests = [
            Request(token_ids[p.id, p.lang], request_seed(job.seed, job.round_number, p.lang, p.id, k)) for p, k in keys
        ]
        completions = engine.generate(requests, job.decoding)
        texts = tokenizer.batch_decode([c.token_ids for c in completions], skip_special_tokens=True)
        rows = [
            {
                "prompt_id": prompt.id,
                "lang": prompt.lang,
                "sample": k,
                "prompt": prompt.text,
                "response": text.strip(),
                "token_ids": completion.token_ids,
                "finish_reason": completion.finish_reason,
                "prompt_ids": token_ids[prompt.id, prompt.lang],
            }
            for (prompt, k), completion, text in zip(keys, completions, texts, strict=True)
        ]
        write_rows(job.shards.path(shard), rows, RESPONSES)
        done += len(rows)
        tokens += sum(len(c.token_ids) for c in completions)
        reporter.progress(done, total, tokens)


def merge_shards(shards: Shards[Prompt], folder: Path, languages: Sequence[str]) -> dict[str, Any]:
    """Write LANG.parquet per language from finished shards; returns counts per language."""
    table = pa.concat_tables([pq.read_table(shards.path(s)) for s in range(len(shards))])
    counts = {}
    for lang in languages:
        of_lang = table.filter(pc.equal(table["lang"], lang))
        with atomic_path(folder / f"{lang}.parquet") as tmp:
            pq.write_table(of_lang, tmp)
        counts[lang] = response_counts(of_lang)
    return counts


def response_counts(table: pa.Table) -> dict[str, Any]:
    """Of RESPONSES rows: how many, their tokens, how many were cut off or are empty, their mean characters."""
    lengths = pc.utf8_length(table["response"])
    return {
        "responses": table.num_rows,
        "tokens": pc.sum(pc.list_value_length(table["token_ids"])).as_py() or 0,
        "truncated": pc.sum(pc.equal(table["finish_reason"], "length")).as_py() or 0,
        "empty": pc.sum(pc.equal(lengths, 0)).as_py() or 0,
        "mean_length": pc.mean(lengths).as_py() or 0.0,
    }


def run_sampling(runner: Runner, job: Job, label: str, folder: Path) -> Counts:
    """Sample the job's shards into `folder`/LANG.parquet."""
    settings = job.config.sampling
    shards = sampling_of(job).shards
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


def sample(job: Job, index: int, events: EventFile) -> dict[str, Any]:
    """Tasks "sample" and "answers": this worker's share of the shards."""
    from icr.engines.models import context_length, load_tokenizer, prompt_token_ids

    work = sampling_of(job)
    settings = job.config.sampling
    todo = work.shards.of_worker(index, job.of)
    if not todo:
        return {}
    tokenizer = load_tokenizer(job.model, job.config.models.chat_template)
    ids = {(p.id, p.lang): prompt_token_ids(tokenizer, p.text) for p in work.shards.items}
    longest = max(len(v) for v in ids.values())
    context = context_length(job.model)
    if longest >= context:
        worst = max(ids, key=lambda key: len(ids[key]))
        raise UserError(
            f"a prompt has {longest} tokens and the model's context is {context}",
            where=f"prompt {worst[0]}, language {worst[1]}",
            do="shorten or remove the prompt",
        )
    engine = open_engine(job.model, settings, max_model_len=min(context, longest + work.decoding.max_tokens))
    sample_shards(work, todo, engine, tokenizer, ids, events)
    return {}
