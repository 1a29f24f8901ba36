"""The config: one YAML file, every key typed and documented, every problem reported at once.

The field docstrings below are the documentation of the keys; `docs/config.md` is made from them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, strict=False)


class Models(Section):
    policy: str | None = None
    """π_θ⁰: hub id, folder, or .gguf file. Without it, `alignment` makes it from the reference."""
    reference: str
    """π_I, the model before English alignment: hub id, folder, or .gguf file."""
    chat_template: str | None = None
    """A Jinja file, for models whose tokenizer brings no chat template."""


class Alignment(Section):
    """English alignment: how π_θ⁰ is made from π_I when `models.policy` is absent."""

    pairs: str
    """jsonl of `prompt`, `chosen`, `rejected` in English."""
    limit: Count | None = None
    """Use only the first this-many pairs."""
    learning_rate: Positive = 5e-7
    epochs: Positive = 1.0
    batch_size: Count = 16
    beta: Positive = 0.1
    nll_weight: NonNegative = 1.0


class Prompts(Section):
    path: str
    """Folder of LANG.jsonl, one jsonl/parquet table with `lang`, or a hub data set."""
    languages: Annotated[list[str], Field(min_length=1)]
    """ISO 639-1 codes; English (`en`) has to be among them."""
    limit: Count | None = None
    """Use only the first this-many prompts, in the order of the English ones."""


class Sampling(Section):
    backend: Literal["auto", "vllm", "transformers"] = "auto"
    """`auto`: vLLM when it is installed, else transformers' generate (and it says so)."""
    n: Annotated[int, Field(ge=2)] = 10
    """Responses per prompt; two at least, for a best and a worst."""
    temperature: Positive = 0.9
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_tokens: Count = 2400
    seed: int = 42
    shard_size: Count = 512
    """Prompts per shard. A shard is what a killed run loses at most, and what one worker takes at a time."""
    tensor_parallel: Count = 1
    """GPUs per engine; the remaining GPUs run further engines side by side."""
    gpu_memory: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of a GPU's memory given to vLLM."""


class Reward(Section):
    kind: Literal["cross-lingual", "multilingual"] = "cross-lingual"
    """What the reward is conditioned on: the prefixed English prompt (Eq. 9) or the prompt as asked (Eq. 12)."""
    beta: Positive = 0.1
    length_penalty: Literal["fit", "none"] | float = "fit"
    """`fit`: α per language by Eq. 15; a number: that α for every language."""
    length_unit: Literal["characters", "tokens"] = "characters"
    reference: Literal["initial", "previous"] = "initial"
    """π_ref of the reward: π_I, or the policy of the round before."""
    precision: Literal["auto", "fp32", "bf16"] = "bf16"
    """Weights and forward pass of the scorer; log-sum-exp and sums are fp32 and fp64 in any case. `auto`: bf16 where
    the hardware computes it, else fp32."""
    batch_tokens: Count = 16384
    """Tokens, padding included, in one forward pass of the scorer."""
    flip_check: Annotated[int, Field(ge=0)] = 32
    """Prompts on which a bf16 run is scored again in fp32, to count how often the (best, worst) pair changes."""
    drop_truncated: bool = False
    """Take responses that hit `max_tokens` out before α is fitted."""
    drop_wrong_language: bool = False
    """Take responses in another language than the prompt's out before α is fitted."""


class Lora(Section):
    rank: Count = 16
    alpha: Count = 32
    dropout: NonNegative = 0.0
    target_modules: str | list[str] = "all-linear"


class Train(Section):
    learning_rate: Positive = 5e-7
    batch_size: Count = 16
    """Pairs per optimiser step over all processes."""
    micro_batch_size: Count = 1
    """Pairs per process and forward pass; KTO needs two or more."""
    epochs: Positive = 1.0
    nll_weight: NonNegative = 1.0
    """Weight of the NLL term of Eq. 11."""
    beta: Positive = 0.1
    warmup_ratio: NonNegative = 0.03
    scheduler: str = "cosine"
    weight_decay: NonNegative = 0.0
    max_grad_norm: Positive = 1.0
    deepspeed: str = "zero2"
    """`zero2` | `zero3` | `none` | a DeepSpeed JSON file."""
    processes: Literal["auto"] | Count = "auto"
    """`auto`: one per GPU, or one on a machine without."""
    precision: Literal["auto", "bf16", "fp32"] = "bf16"
    """`auto`: bf16 where the hardware computes it, else fp32."""
    gradient_checkpointing: bool = True
    lora: Lora | None = None
    save_steps: Count = 50
    """Optimiser steps between the checkpoints that a killed training continues from."""
    seed: int = 42
    report_to: str = "none"
    """Tracker(s) of transformers: none, tensorboard, wandb, trackio, …"""


class Judge(Section):
    kind: Literal["local", "openai", "none"] = "none"
    model: str | None = None
    """local: hub id, folder or .gguf; openai: the model's name at the endpoint."""
    prompts: str | None = None
    """Held-out prompts, in the form of `prompts.path`; joined by id, too."""
    limit: Count | None = None
    baseline: str = "round-0"
    """`round-0`, or a folder of LANG.json / LANG.jsonl answers (`id`, `output`) to compare with."""
    max_tokens: Count = 2048
    temperature: NonNegative = 0.6
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    base_url: str | None = None
    """openai: the endpoint; the key comes from OPENAI_API_KEY."""
    concurrency: Count = 16


class Config(Section):
    run: str | None = None
    """The run folder; `--run` overrides it."""
    rounds: Count = 2
    models: Models
    alignment: Alignment | None = None
    prompts: Prompts
    sampling: Sampling = Sampling()
    reward: Reward = Reward()
    objective: str = "dpo"
    """`dpo` (Eq. 11), `kto` (Eq. 16), or your own `module:Class`."""
    train: Train = Train()
    judge: Judge = Judge()
