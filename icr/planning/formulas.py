"""The arithmetic of a plan, one formula a function; docs/plan.md has them in one place.

P parameters, T tokens, L layers, h hidden size, c tokens of a sequence, b bytes of a number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import ndtr

from icr.engines.precision import Precision
from icr.engines.sizes import BYTES
from icr.planning.devices import Device
from icr.planning.facts import ModelFacts

SIGMA = 0.76
"""Spread of the logarithm of an answer's length: with a mean of 450 tokens, 0.5 % are longer than 2,400."""
WRITTEN = 0.75
"""Of its mean length, what an answer has on average while it is being written: a half, and more for the long ones,
which are there for longer."""
MOST_SEQUENCES = {"gpu": 1024, "cpu": 256}
"""That vLLM writes at a time by default."""
CPU_CACHE = 2**30
"""Bytes of keys and values that an engine on a processor keeps (`icr/engines/vllm_engine.py`)."""
RESERVE = 2 * 2**30
"""Bytes of an engine on a GPU that are neither weights nor cache."""
ENDING = 1 / 8
"""Share of an engine's sequences that are still written, on average, while the longest ones end."""
MOVED = 0.85
"""Share of a memory's bandwidth that is reached."""
EFFICIENCY = {
    "gpu": {"sample": 0.6, "score": 0.45, "train": 0.27},
    "cpu": {"sample": 0.35, "score": 0.6, "train": 0.5},
}
"""Share of a device's operations that a kind of work reaches. On GPUs: assumed, no run on one has confirmed them."""
SPREAD = {"gpu": (0.6, 2.5), "cpu": (0.2, 3.0)}
"""What the work takes at best and at worst, as multiples of the estimate by these shares. A processor may have had
other work while it was measured, or while it runs."""


def forward_flops(facts: ModelFacts, tokens: float, sequence: float) -> float:
    """Operations of a forward pass: 2·P·T + 2·L·h·c·T, the second for causal attention."""
    return 2 * facts.parameters * tokens + 2 * facts.shape.layers * facts.shape.hidden * sequence * tokens


def training_flops(facts: ModelFacts, tokens: float, sequence: float, *, checkpointing: bool) -> float:
    """Forward and backward: 3 forward passes; 4 where activations are computed again."""
    return (4 if checkpointing else 3) * forward_flops(facts, tokens, sequence)


def weights_bytes(facts: ModelFacts, precision: Precision) -> int:
    """b·P."""
    return BYTES[precision] * facts.parameters


def cache_bytes(facts: ModelFacts, precision: Precision) -> int:
    """Keys and values of one token: b · 2 · L · KV heads · size of a head."""
    return BYTES[precision] * facts.shape.kv_numbers


def forward_bytes(facts: ModelFacts, precision: Precision, batch_tokens: int) -> int:
    """What a forward pass without gradients holds at a time: b·T·(6·h + 3·intermediate), and 512 rows of logits in
    fp32 twice."""
    shape = facts.shape
    return (
        batch_tokens * BYTES[precision] * (6 * shape.hidden + 3 * shape.intermediate) + 2 * 512 * 4 * shape.vocabulary
    )


def capped_mean(mean: float, cap: int) -> float:
    """Mean of min(X, cap), X lognormal with this mean and SIGMA: how long answers are on average that are cut off.

    E[min(X, m)] = e^(μ+σ²/2)·Φ((ln m − μ − σ²)/σ) + m·(1 − Φ((ln m − μ)/σ)).
    """
    mu = math.log(mean) - SIGMA**2 / 2
    z = (math.log(cap) - mu) / SIGMA
    return float(mean * ndtr(z - SIGMA) + cap * (1 - ndtr(z)))


def uncapped_mean(observed: float, cap: int) -> float:
    """The mean before answers were cut off, so that `capped_mean` gives what was observed; at most 10 times the cap."""
    low, high = min(observed, cap), 10.0 * cap
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if capped_mean(middle, cap) < observed else (low, middle)
    return low


@dataclass(frozen=True)
class Sampled:
    """What an engine is to write."""

    requests: int
    prompt: float
    """Mean tokens of a prompt."""
    answer: float
    """Mean tokens of an answer."""
    longest: float
    """Tokens of the longest one."""
    each: int = 1
    """Answers to a prompt, which is read once for all of them."""


def sequences_at_once(
    facts: ModelFacts, what: Sampled, device: Device, precision: Precision, share: float, tp: int
) -> int:
    """min(the default, requests, cache ÷ tokens of an unfinished sequence); cache = share·memory·tp − b·P − RESERVE."""
    room = CPU_CACHE if device.kind == "cpu" else share * device.memory * tp - weights_bytes(facts, precision) - RESERVE
    unfinished = what.prompt + WRITTEN * what.answer
    fitting = int(room / (cache_bytes(facts, precision) * max(1.0, unfinished)))
    return max(1, min(MOST_SEQUENCES[device.kind], what.requests, fitting))


def sampling_seconds(
    facts: ModelFacts,
    what: Sampled,
    device: Device,
    precision: Precision,
    *,
    engines: int = 1,
    tp: int = 1,
    share: float = 0.9,
) -> float:
    """Seconds of continuous batching on so many engines.

    A step writes a token of each of B sequences:
    (b·P + B·c·cache) ÷ (bandwidth·0.85·tp) + 2·P·B ÷ (operations·share·tp).
    There are requests·answer ÷ (engines·B) steps; then the longest answers end, beside ENDING of the others, which is
    near to what a simulation of single requests gives. Prompts are read at full speed.
    """
    if not what.requests:
        return 0.0
    of_engine = Sampled(math.ceil(what.requests / engines), what.prompt, what.answer, what.longest, what.each)
    batch = sequences_at_once(facts, of_engine, device, precision, share, tp)
    unfinished = what.prompt + WRITTEN * what.answer
    speed = device.flops(precision) * EFFICIENCY[device.kind]["sample"] * tp
    moved = device.bandwidth * MOVED * tp

    def step(sequences: float) -> float:
        cached = sequences * unfinished * cache_bytes(facts, precision)
        return (weights_bytes(facts, precision) + cached) / moved + 2 * facts.parameters * sequences / speed

    steps = of_engine.requests * what.answer / batch
    tail = max(0.0, what.longest - what.answer) * step(max(1.0, ENDING * batch))
    prefill = forward_flops(facts, of_engine.requests / what.each * what.prompt, what.prompt) / speed
    return steps * step(batch) + tail + prefill


def computing_seconds(flops: float, device: Device, precision: Precision, kind: str, devices: int = 1) -> float:
    """Operations ÷ (devices · operations a second · the share that this kind of work reaches)."""
    return flops / (devices * device.flops(precision) * EFFICIENCY[device.kind][kind])
