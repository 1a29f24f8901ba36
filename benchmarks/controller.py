"""The controller's own time in a round of many prompts, beside the engines' time for the same round.

    python -m benchmarks.controller [--json] [--prompts 300]

A round of `--prompts` × 5 languages × 10 responses is put into the shards' files as the workers would leave it; then
the controller's part of sample, score and pair runs on it (merging, language detection, the α fit, rewards, pairs,
records). The engines' time for as many tokens is taken from vLLM and the scorer in this very process, on a few of the
same prompts, so it is this machine's: on a faster engine the share is larger in proportion, and the table says how many
tokens a second would make it 3 %.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from icr.base.conversation import wrap_text
from icr.base.files import write_rows
from icr.base.rundir import RunDir
from icr.config.load import load_config
from icr.config.schema import CONFIGS, Config
from icr.engines.base import Decoding, Request
from icr.engines.folders import locate, materialise
from icr.engines.models import load_model, load_tokenizer
from icr.engines.open import EngineSettings
from icr.engines.precision import resolve_precision
from icr.engines.templates import Template, prompt_token_ids
from icr.engines.vllm_engine import VllmEngine
from icr.rounds.context import Context, Inputs
from icr.rounds.stages.measure import CONDITIONS_SHARD, ENCODED
from icr.rounds.stages.pair import pair
from icr.rounds.stages.sample import sample
from icr.rounds.stages.score import score
from icr.rows import RESPONSES
from icr.scoring import sequence_logprobs
from icr.work.classify import VALUES
from icr.work.machine import Machine
from icr.work.pool import Pool
from icr.work.steps import Step
from prompts.load import Prompt

LANGUAGES = ["en", "es", "ru", "de", "fr"]
N = 10
TOKENS = 300
"""Tokens of a response, about what the paper's models write."""


class Finished(Machine):
    """A machine whose workers have all done their work already."""

    @property
    def pool(self) -> Pool:  # type: ignore[override]
        raise AssertionError("the shards should all be there")


def measure(prompts: int) -> dict[str, Any]:
    """Seconds of the controller's steps and of the engines, and their ratio."""
    import torch

    recipe = load_config(CONFIGS / "quickstart.yaml")
    model = materialise(locate(recipe.models.reference, "models.reference"))
    tokenizer = load_tokenizer(model)
    texts = [
        json.loads(line)["instruction"] for line in (Path(recipe.prompts.path) / "es.jsonl").read_text().splitlines()
    ]
    ids = [prompt_token_ids(tokenizer, wrap_text(t)) for t in texts[:16]]
    precision = resolve_precision("auto", gpu=False)
    engine = VllmEngine(model, max_model_len=512, tensor_parallel=1, gpu_memory=0.9, precision=precision)
    requests = [Request(p, i) for i, p in enumerate(ids * 4)]
    engine.generate(requests[:8], Decoding(0.9, 1.0, 8))
    started = time.perf_counter()
    answers = [c.token_ids for c in engine.generate(requests, Decoding(0.9, 1.0, 64))]
    tokens = sum(map(len, answers))
    sampling = tokens / (time.perf_counter() - started)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    scorer = load_model(model, torch.bfloat16, device)
    started = time.perf_counter()
    sequence_logprobs(scorer, [r.prompt_ids for r in requests], answers)
    scoring = tokens / (time.perf_counter() - started)
    with tempfile.TemporaryDirectory() as folder:
        seconds, total = _controller(Path(folder), recipe, prompts, tokenizer, answers)
    engines = total / sampling + 2 * total / scoring
    return {
        "prompts": prompts * len(LANGUAGES),
        "responses": prompts * len(LANGUAGES) * N,
        "tokens": total,
        "controller_seconds": seconds,
        "engine_seconds": engines,
        "share": sum(seconds.values()) / engines,
        "three_percent_at_tokens_per_second": 0.03 * total / sum(seconds.values()),
    }


def _controller(
    folder: Path, recipe: Config, prompts: int, tokenizer: Any, answers: list[list[int]]
) -> tuple[dict[str, float], int]:
    """Seconds per stage, and the responses' tokens."""
    config = _config(folder, recipe, prompts)
    items = [
        Prompt(f"p{i}", lang, wrap_text(f"{lang} {i}"), wrap_text(f"en {i}"))
        for i in range(prompts)
        for lang in LANGUAGES
    ]
    run = RunDir(folder / "run")
    context = Context(
        run=run,
        round=run.round(1),
        config=config,
        inputs=Inputs(items, [], [], "a", "b", {}),
        step=Step("round-1/benchmark"),
        policy="a",
        trained="c",
        reference="b",
        previous="b",
        judge_models={},
        machine=Finished(run.path, Console()),
        template=Template(),
        engine=EngineSettings.of(config.sampling, 512, gpu=False),
    )
    rng = np.random.default_rng(0)
    longer = [(a * (1 + TOKENS // max(1, len(a))))[:TOKENS] for a in answers]
    texts = tokenizer.batch_decode(longer, skip_special_tokens=True)
    total = 0
    for number, start in enumerate(range(0, len(items), context.shard_size)):
        rows = []
        for prompt in items[start : start + context.shard_size]:
            for k in range(N):
                which = int(rng.integers(len(longer)))
                cut = int(rng.integers(TOKENS // 2, TOKENS))
                total += cut
                rows.append({"prompt_id": prompt.id, "lang": prompt.lang, "sample": k, "prompt": prompt.text,
                             "response": texts[which][: 4 * cut], "token_ids": longer[which][:cut],
                             "finish_reason": "stop", "prompt_ids": longer[0][:60]})  # fmt: skip
        name = f"{number:05d}.parquet"
        write_rows(context.shard_folder(context.round.responses / "shards") / name, rows, RESPONSES)
        for measured in ("policy", "reference"):
            sums = [{"prompt_id": r["prompt_id"], "lang": r["lang"], "sample": r["sample"],
                     "value": float(rng.normal(-500, 5))} for r in rows]  # fmt: skip
            write_rows(context.pass_folder(measured) / name, sums, VALUES)
    for number, start in enumerate(range(0, len(items), CONDITIONS_SHARD)):
        ids = [{"ids": longer[0][:60]} for _ in items[start : start + CONDITIONS_SHARD]]
        write_rows(context.pass_folder("conditions") / f"{number:05d}.parquet", ids, ENCODED)
    seconds = {}
    for name, stage in (("sample", sample), ("score", score), ("pair", pair)):
        started = time.perf_counter()
        stage(context)
        seconds[name] = time.perf_counter() - started
    return seconds, total


def _config(folder: Path, recipe: Config, prompts: int) -> Config:
    """A config whose prompts are as many as the round has."""
    source = folder / "prompts"
    source.mkdir()
    for lang in LANGUAGES:
        lines = [json.dumps({"id": f"p{i}", "instruction": f"{lang} {i}"}) for i in range(prompts)]
        (source / f"{lang}.jsonl").write_text("\n".join(lines))
    data = recipe.model_dump()
    data["prompts"] = {"path": str(source), "languages": LANGUAGES}
    data["sampling"].update(n=N, shard_size=512)
    data["reward"].update(precision="fp32")
    return Config.model_validate(data)


def main() -> None:
    parser = argparse.ArgumentParser(description="the controller's own time in a round of many prompts")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--prompts", type=int, default=300, help="prompts per language")
    args = parser.parse_args()
    result = measure(args.prompts)
    if args.json:
        print(json.dumps(result))
        return
    own = result["controller_seconds"]
    print(f"{result['responses']} responses of {result['prompts']} prompts, {result['tokens']} tokens")
    print("controller " + ", ".join(f"{k} {v:.1f} s" for k, v in own.items()) + f", together {sum(own.values()):.1f} s")
    print(f"engines    {result['engine_seconds']:.0f} s at this machine's speed")
    print(f"share      {100 * result['share']:.2f} %")
    print(f"it is 3 % where the engines do {result['three_percent_at_tokens_per_second']:.0f} tokens/s in all")


if __name__ == "__main__":
    main()
