"""The method once more, slowly and in fp64, for comparison: nothing here comes from the package."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PREFIX = (
    "Please answer the following instruction using only {}, unless explicitly instructed to respond in a different "
    "language.\n\n"
)
NAMES = {"es": "Spanish", "ru": "Russian"}


class Model:
    """A causal LM in fp64, one sequence at a time."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder).double().eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def logp(self, prompt: str, response: list[int]) -> float:
        """Sum of log-probs of `response` after the templated prompt, by a full softmax over the whole sequence."""
        return self.logp_after(f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n", response)

    def logp_after(self, text: str, response: list[int]) -> float:
        """The same after a text in which the template's marks are already."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = self.model(torch.tensor([ids + response])).logits[0]
        logps = torch.log_softmax(logits, -1)
        return sum(float(logps[len(ids) - 1 + i, token]) for i, token in enumerate(response))


def rows(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def gap(rewards: list[list[float]], lengths: list[list[int]], alpha: float) -> float:
    """Mean over prompts of length of the best minus length of the worst response, under r - alpha * length."""
    differences = []
    for r, n in zip(rewards, lengths, strict=True):
        values = [a - alpha * b for a, b in zip(r, n, strict=True)]
        differences.append(n[int(np.argmax(values))] - n[int(np.argmin(values))])
    return float(np.mean(differences))


def best_gap(rewards: list[list[float]], lengths: list[list[int]]) -> float:
    """The smallest |gap| over every α at which any two responses of a prompt change places, and between those."""
    points = {0.0}
    for r, n in zip(rewards, lengths, strict=True):
        for i in range(len(r)):
            for j in range(i):
                if n[i] != n[j]:
                    points.add((r[i] - r[j]) / (n[i] - n[j]))
    ordered = sorted(points)
    between = [(a + b) / 2 for a, b in itertools.pairwise(ordered)]
    return min(abs(gap(rewards, lengths, a)) for a in [ordered[0] - 1, *between, ordered[-1] + 1])
