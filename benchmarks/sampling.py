"""Sampling inside the loop against bare vLLM: the same engine, the same requests, in turn.

    python -m benchmarks.sampling [--json] [--prompts 15] [--repeats 3]

The loop cuts the work into shards, seeds every response, decodes, writes parquet and reports progress; the bare side is
one `LLM.generate` over all requests. The model is SmolLM2-135M-Instruct, the prompts are the quickstart's.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from icr.base.progress import Silent
from icr.config.load import load_config
from icr.config.schema import CONFIGS
from icr.engines.base import Decoding, Request, request_seed
from icr.engines.models import load_tokenizer, locate, materialise, prompt_token_ids
from icr.engines.precision import resolve_precision
from icr.engines.vllm_engine import VllmEngine
from icr.work.sampling import SamplingJob, sample_shards
from icr.work.shards import Shards
from prompts.load import load_prompts

N = 4
DECODING = Decoding(temperature=0.9, top_p=1.0, max_tokens=48)


def measure(prompts: int, shards: int, repeats: int) -> dict[str, Any]:
    """Tokens a second of both sides, and the median of their ratios."""
    config = load_config(CONFIGS / "quickstart.yaml")
    model = materialise(locate(config.models.reference, "models.reference"))
    tokenizer = load_tokenizer(model)
    items = load_prompts(config.prompts.path, config.prompts.languages, limit=prompts)
    ids = {(p.id, p.lang): prompt_token_ids(tokenizer, p.text) for p in items}
    precision = resolve_precision("auto", gpu=False)
    engine = VllmEngine(model, max_model_len=1024, tensor_parallel=1, gpu_memory=0.9, precision=precision)
    requests = [Request(ids[p.id, p.lang], request_seed(42, 1, p.lang, p.id, k)) for p in items for k in range(N)]
    engine.generate(requests[: 4 * N], DECODING)  # first calls are slow on both sides
    bare, ours = [], []
    for _ in range(repeats):
        started = time.perf_counter()
        tokens = sum(len(c.token_ids) for c in engine.generate(requests, DECODING))
        bare.append(tokens / (time.perf_counter() - started))
        with tempfile.TemporaryDirectory() as folder:
            job = SamplingJob(Shards(Path(folder), items, -(-len(items) // shards)), N, DECODING, 42, 1)
            started = time.perf_counter()
            sample_shards(job, job.shards.of_worker(0, 1), engine, tokenizer, ids, Silent())
            seconds = time.perf_counter() - started
            ours.append(sum(len(row["token_ids"]) for row in job.shards.rows()) / seconds)
    ratios = [b / a for a, b in zip(bare, ours, strict=True)]
    return {
        "requests": len(requests),
        "shards": shards,
        "bare_tokens_per_second": float(np.median(bare)),
        "loop_tokens_per_second": float(np.median(ours)),
        "ratio": float(np.median(ratios)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="sampling inside the loop against bare vLLM")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--prompts", type=int, default=15, help="prompts per language")
    parser.add_argument("--shards", type=int, default=1, help="shards that the requests are cut into")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    result = measure(args.prompts, args.shards, args.repeats)
    if args.json:
        print(json.dumps(result))
        return
    print(f"{result['requests']} requests in {result['shards']} shard(s)")
    print(f"bare vLLM  {result['bare_tokens_per_second']:8.0f} tokens/s")
    print(f"the loop   {result['loop_tokens_per_second']:8.0f} tokens/s")
    print(f"ratio      {result['ratio']:8.3f}")


if __name__ == "__main__":
    main()
