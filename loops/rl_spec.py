"""What a training against a reward model is asked to do. Imports no torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel

from icr.engines.precision import Precision
from loops.spec import TrainSpec

DRIVER = "reward"
"""The name of the reward model that is trained on, among those that score held-out samples."""
STEP_SETTINGS = ("beta", "n", "max_tokens", "backend", "every", "samples", "max_kl")
"""Settings that the course of the training depends on, beside those of `train`."""


class RLSpec(TrainSpec):
    """A training by RLOO. `model` is π_SFT, where π starts and what KL is measured from.

    A row of `data` is a prompt, with `lang` and, as tables hold it, `prompt`; those that are held are measured on.
    `train.batch_size` counts prompts, and `train.micro_batch_size` samples.
    """

    program: ClassVar[str] = "icr.experiments.rl_process"

    beta: float
    n: int
    """Samples of a prompt."""
    max_tokens: int
    backend: Literal["vllm", "transformers"]
    gpu_memory: float
    """Share of a GPU's memory that vLLM has."""
    rewards: dict[str, str]
    """Name → classifier's folder or hub id. DRIVER is trained on; all score the held-out samples."""
    reward_precision: Precision
    batch_tokens: int
    """Of one forward pass of a classifier."""
    every: int
    """Optimiser steps between measurements."""
    samples: int
    """Of a held-out prompt, at each measurement."""
    max_kl: float
    """Nats a sequence."""


class HeldOutSample(BaseModel):
    """A sample of a held-out prompt, and what was measured of it."""

    prompt_id: str
    lang: str
    sample: int
    prompt: str
    """As tables hold it."""
    response: str
    tokens: int
    finish_reason: Literal["stop", "length"]
    log_ratio: float
    """log π(y|x) − log π_SFT(y|x), in nats."""
    scores: dict[str, float | None]
    """By reward model; None: longer than it can read."""
