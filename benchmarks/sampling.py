"""Sampling inside the loop against bare vLLM: the same engine, the same requests, in turn.

    python -m benchmarks.sampling [--json] [--prompts 15] [--n 4] [--repeats 3]

The loop cuts the work into shards, seeds every response, decodes and writes parquet; the bare side is
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
import pyarrow as pa

from icr.base.files import write_table
from icr.base.progress import SILENT
from icr.config.load import load_config
from icr.config.schema import CONFIGS
from icr.engines.base import Decoding, Request, request_seed
from icr.engines.folders import locate, materialise
from icr.engines.models import load_tokenizer
from icr.engines.open import EngineSettings
from icr.engines.templates import Template, prompt_token_ids
from icr.work.resident import Resident
from icr.work.sampling import PROMPTS, SampleTask, sample
from icr.work.shards import cut_table
from prompts.load import load_prompts

DECODING = Decoding(temperature=0.9, top_p=1.0, max_tokens=48)


def measure(prompts: int, n: int, shards: int, repeats: int) -> dict[str, Any]:
    """Tokens a second of both sides, and the median of their ratios."""
    config = load_config(CONFIGS / "quickstart.yaml")
    model = materialise(locate(config.models.reference, "models.reference"))
    tokenizer = load_tokenizer(model)
    items = load_prompts(config.prompts.path, config.prompts.languages, limit=prompts)
    ids = {(p.id, p.lang): prompt_token_ids(tokenizer, p.messages) for p in items}
    settings = EngineSettings.of(config.sampling.model_copy(update={"backend": "vllm"}), 1024, gpu=False)
    state = Resident()
    engine = state.engine(model, settings)
    task = SampleTask(
        model=model,
        template=Template(),
        engine=settings,
        n=n,
        temperature=DECODING.temperature,
        top_p=DECODING.top_p,
        max_tokens=DECODING.max_tokens,
        seed=42,
        round=1,
    )
    table = pa.Table.from_pylist([{"prompt_id": p.id, "lang": p.lang, "prompt": p.text} for p in items], schema=PROMPTS)
    requests = [Request(ids[p.id, p.lang], request_seed(42, 1, p.lang, p.id, k)) for p in items for k in range(n)]
    engine.generate(requests[: 4 * n], DECODING)  # first calls are slow on both sides
    bare, ours = [], []
    for _ in range(repeats):
        started = time.perf_counter()
        tokens = sum(len(c.token_ids) for c in engine.generate(requests, DECODING))
        bare.append(tokens / (time.perf_counter() - started))
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            tokens = 0
            for shard in cut_table(table, -(-len(items) // shards)):
                made = sample(state, task, shard.table, SILENT)
                write_table(Path(folder) / f"{shard.name}.parquet", made)
                tokens += sum(map(len, made["token_ids"].to_pylist()))
            ours.append(tokens / (time.perf_counter() - started))
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
    parser.add_argument("--n", type=int, default=4, help="answers to a prompt: 64 for best-of-64")
    parser.add_argument("--shards", type=int, default=1, help="shards that the requests are cut into")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    result = measure(args.prompts, args.n, args.shards, args.repeats)
    if args.json:
        print(json.dumps(result))
        return
    print(f"{result['requests']} requests in {result['shards']} shard(s)")
    print(f"bare vLLM  {result['bare_tokens_per_second']:8.0f} tokens/s")
    print(f"the loop   {result['loop_tokens_per_second']:8.0f} tokens/s")
    print(f"ratio      {result['ratio']:8.3f}")


if __name__ == "__main__":
    main()
