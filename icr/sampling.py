"""Eq. 7: N responses from the policy for every prompt of every language, in shards that survive a kill."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from icr.config import Sampling
from icr.engines.precision import resolve_precision
from icr.files import atomic_path, write_rows
from icr.progress import Reporter
from icr.rundir import RESPONSES
from icr.shards import Shards
from prompts.load import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Request:
    """One response to sample: the templated prompt, and a seed that belongs to this response alone."""

    prompt_ids: list[int]
    seed: int


@dataclass(frozen=True)
class Completion:
    """What an engine returns. `token_ids` holds the end-of-turn token when `finish_reason` is "stop"."""

    token_ids: list[int]
    finish_reason: str


@dataclass(frozen=True)
class Decoding:
    temperature: float
    top_p: float
    max_tokens: int


class Engine(Protocol):
    name: str

    def generate(self, requests: Sequence[Request], decoding: Decoding) -> list[Completion]:
        """One completion per request, in order."""


def request_seed(seed: int, round_number: int, lang: str, prompt_id: str, sample: int) -> int:
    """A response's randomness depends on these five and on nothing else that runs."""
    key = "\x1f".join((str(seed), str(round_number), lang, prompt_id, str(sample)))
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 1


def choose_backend(backend: str) -> str:
    """`auto` is vLLM when it is installed."""
    if backend != "auto":
        return backend
    return "vllm" if importlib.util.find_spec("vllm") else "transformers"


def open_engine(model: str, settings: Sampling, *, max_model_len: int) -> Engine:
    """The engine that the settings ask for, in the precision that suits this machine."""
    import torch

    precision = resolve_precision(settings.precision, gpu=torch.cuda.is_available())
    if choose_backend(settings.backend) == "vllm":
        from icr.engine_vllm import VllmEngine

        return VllmEngine(
            model,
            max_model_len=max_model_len,
            tensor_parallel=settings.tensor_parallel,
            gpu_memory=settings.gpu_memory,
            precision=precision,
        )
    from icr.engine_transformers import TransformersEngine

    return TransformersEngine(model, precision)


@dataclass(frozen=True)
class SamplingJob:
    """Everything that decides what is sampled."""

    shards: Shards[Prompt]
    n: int
    decoding: Decoding
    seed: int
    round_number: int


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
