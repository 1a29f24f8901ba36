"""A training step's passes against the plain way: the same model, the same rows, forward and backward.

    python -m benchmarks.training [--json] [--device cuda] [--sequences 6] [--repeats 5]

The baseline takes the softmax over the vocabulary at every position of prompt, response and padding and gathers the
response's tokens, as DPO scripts do. `icr` is what its trainers run: the output head over the response's positions
alone. The model is SmolLM2-135M-Instruct; prompts and responses are those of `benchmarks.scoring`. The sides take
turns, and the ratio is the median of the turns' ratios.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from benchmarks.scoring import MODEL, RESPONSES, describe, make_rows, take_turns
from icr.engines.folders import locate, materialise
from icr.engines.models import load_model, load_tokenizer
from icr.engines.precision import resolve_precision
from loops.trainers import add_head, head_logps


def plain_logps(model: Any, ids: Tensor, attention: Tensor, labels: Tensor) -> Tensor:
    """Sums over the labelled tokens, by a softmax at every position."""
    logits = model(input_ids=ids, attention_mask=attention, use_cache=False).logits[:, :-1].float()
    logps: Tensor = logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    return logps.masked_fill(labels[:, 1:] == -100, 0.0).sum(dim=1)


def measure(device: str, sequences: int, repeats: int) -> dict[str, Any]:
    """Seconds of both sides, the median of their ratios, and how far their sums lie apart."""
    folder = materialise(locate(MODEL, "benchmarks.training"))
    prompts, responses = make_rows(load_tokenizer(folder), sequences)
    prompts, responses = prompts[::RESPONSES], responses[::RESPONSES]  # one of each prompt
    rows = [torch.tensor(p + r) for p, r in zip(prompts, responses, strict=True)]
    labels = [torch.tensor([-100] * len(p) + r) for p, r in zip(prompts, responses, strict=True)]
    attention = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    ids, targets = pad_sequence(rows, batch_first=True), pad_sequence(labels, batch_first=True, padding_value=-100)
    batch = [part.to(device) for part in (ids, attention, targets)]
    precision = resolve_precision("auto", gpu=device == "cuda")
    model = load_model(folder, torch.bfloat16 if precision == "bf16" else torch.float32, device).train()
    add_head(model)

    def passes(logps: Callable[..., Tensor]) -> Tensor:
        model.zero_grad()
        sums = logps(model, *batch)
        sums.sum().backward()  # type: ignore[no-untyped-call]
        return sums.detach().cpu()

    sides = {"baseline": partial(passes, plain_logps), "icr": partial(passes, head_logps)}
    take_turns(sides, 1, device)  # so that neither side pays for first calls
    figures, sums = take_turns(sides, repeats, device)
    lengths = torch.tensor([len(r) for r in responses])
    return {
        "device": describe(device),
        "precision": precision,
        "positions": int(attention.numel()),
        "response_tokens": int(lengths.sum()),
        **figures,
        "largest_difference_per_token": float(((sums["icr"] - sums["baseline"]).abs() / lengths).max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="a training step's passes against a softmax at every position")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--sequences", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    result = measure(args.device, args.sequences, args.repeats)
    if args.json:
        print(json.dumps(result))
        return
    print(
        f"{result['positions']} positions, {result['response_tokens']} of them in responses, {result['precision']}, "
        f"{result['device']}"
    )
    print(f"baseline {result['baseline']:.2f} s, icr {result['icr']:.2f} s: {result['ratio']:.2f} times as fast; "
          f"largest difference {result['largest_difference_per_token']:.1e} nats a token")  # fmt: skip


if __name__ == "__main__":
    main()
