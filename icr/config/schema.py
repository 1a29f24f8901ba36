"""The config: one YAML file, every key typed and documented, every problem reported at once.

The field docstrings below are the documentation of the keys; `docs/config.md` is generated from them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from icr.config.judging import Accuracy, Endpoint, Judge, MtBench, Nlp
from icr.config.values import (
    Count,
    NonNegative,
    Number,
    OwnClass,
    Positive,
    Processes,
    Section,
    Seed,
    Share,
    TemplateArguments,
    Text,
    Tokens,
    Whole,
)

__all__ = [
    "CONFIGS",
    "Accuracy",
    "Alignment",
    "Cluster",
    "Config",
    "Endpoint",
    "Judge",
    "Lora",
    "Models",
    "MtBench",
    "Nlp",
    "Prompts",
    "Reward",
    "Sampling",
    "Train",
]

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
WARMUP_RATIO = 0.03


class Models(Section):
    policy: Text | None = None
    """π_θ⁰: hub id, folder, or .gguf file. Without it, `alignment` makes it from the reference."""
    reference: Text
    """π_I, the model before English alignment: hub id, folder, or .gguf file. Rewards without log-probs do not use it:
    it may be the policy itself."""
    chat_template: Text | None = None
    """A Jinja file, for models whose tokenizer has no chat template."""
    template_arguments: TemplateArguments = {}
    """Arguments of the chat template, such as {enable_thinking: false}. The models that a run makes also have them."""


class Alignment(Section):
    """English alignment: makes π_θ⁰ from π_I when `models.policy` is absent."""

    pairs: Text
    """A jsonl, json, csv or parquet file, or a data set on the hub (`hf:org/name`), with `prompt`, `chosen` and
    `rejected` in English: texts, or lists of messages as TRL has them."""
    limit: Count | None = None
    """Use only the first N pairs."""
    learning_rate: Annotated[Positive, Field(le=10)] = 5e-7
    epochs: Annotated[Positive, Field(le=10_000)] = 1.0
    batch_size: Count = 16
    beta: Positive = 0.1
    nll_weight: NonNegative = 1.0


class Prompts(Section):
    path: Text
    """Folder of LANG.jsonl (or .json, .csv, .parquet, .txt, each also .gz), one such table with `lang`, or a data set
    on the hub: `hf:org/name@revision:config:split`. A row has an `instruction`, or a conversation as `messages`."""
    languages: Annotated[list[Text], Field(min_length=1)]
    """ISO 639-1 codes. English (`en`) must be one of them for rewards that read the English prompt, and for `lidr`."""
    limit: Count | None = None
    """Use only the first N prompts, in the order of the English ones (without English, of the first language)."""
    allow_overlap: bool = False
    """Allow held-out prompts (`judge.prompts`) that are also training prompts. Otherwise they are an error."""


class Sampling(Section):
    backend: Literal["auto", "vllm", "transformers"] = "auto"
    """`auto`: vLLM if it is installed, else transformers' generate (a note says so)."""
    n: Annotated[Whole, Field(ge=2, le=10_000)] = 10
    """Responses per prompt. At least 2, for a best and a worst one."""
    temperature: Annotated[Positive, Field(le=2)] = 0.9
    top_p: Annotated[Share, Field(gt=0)] = 1.0
    max_tokens: Tokens = 2400
    stop: list[Annotated[Text, Field(min_length=1)]] = []
    """More tokens or texts that end an answer. The chat template's end of turn, the tokenizer's EOS and those of
    generation_config.json end one in any case."""
    seed: Seed = 42
    shard_size: Count = 512
    """Prompts per shard, the unit of work. A killed run loses its unfinished shards. On a GPU a shard has at most 128
    prompts; a change is refused there as well, because a run may continue on another machine."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Weights and forward pass of the engine. `auto`: bf16 if the hardware supports it, else fp32."""
    tensor_parallel: Processes = 1
    """GPUs per engine. The other GPUs run more engines in parallel."""
    gpu_memory: Annotated[Share, Field(gt=0)] = 0.9
    """Share of a GPU's memory for vLLM."""


class Reward(Section):
    kind: Literal["cross-lingual", "multilingual", "translate", "model", "random", "lidr"] | OwnClass = "cross-lingual"
    """`cross-lingual`: log-ratio given the prefixed English prompt (Eq. 9). `multilingual`: log-ratio given the prompt
    as asked (Eq. 12). `translate`: log-ratio of the response's English translation, made by the policy, given the
    English prompt (Eq. 13). `model`: the logit of the classifier `reward.model`. `random`: a control. `module:Class`: a
    custom reward (docs/reward.md). `lidr`: no reward, but the baseline of arXiv 2410.08964, with one greedy response
    per prompt (`sampling.n`, `temperature` and `top_p` are ignored)."""
    model: Text | Annotated[dict[Text, Text], Field(min_length=1)] | None = None
    """kind `model`: a sequence classifier with one logit; hub id or folder. Or one a language: {es: …, ru: …}."""
    beta: Positive = 0.1
    length_penalty: Literal["fit", "none"] | Number = "fit"
    """`fit`: α is fitted per language (Eq. 15). A number: this α for every language. `none`: no penalty."""
    length_unit: Literal["characters", "tokens"] = "characters"
    reference: Literal["initial", "previous"] = "initial"
    """π_ref of the log-ratio. `initial`: π_I. `previous`: the policy one round before the current one; in round 1,
    π_I."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Weights and forward pass of the scorer or classifier. Log-sum-exp is always fp32, sums are always fp64.
    `auto`: bf16 if the hardware supports it, else fp32."""
    batch_tokens: Count = 16384
    """Tokens in one forward pass of the scorer, padding included."""
    flip_check: Annotated[Whole, Field(ge=0)] = 32
    """Number of prompts that a bf16 run scores again in fp32, to count how often the (best, worst) pair changes. Left
    out, with a note, where fp32 does not fit into memory."""
    drop_truncated: bool = False
    """Exclude responses cut off at `max_tokens` before fitting α."""
    drop_wrong_language: bool = False
    """Exclude responses that are not in the prompt's language before fitting α."""
    reject_wrong_language: bool = False
    """Exclude responses that are not in the prompt's language before fitting α, and reject one: where a prompt has such
    a response, the worst of them is the rejected one of its pair. For a policy that falls back to English. Kind `lidr`
    excludes them only."""


class Lora(Section):
    rank: Annotated[Count, Field(le=65_536)] = 16
    alpha: Count = 32
    dropout: Annotated[Share, Field(lt=1)] = 0.0
    target_modules: Text | Annotated[list[Text], Field(min_length=1)] = "all-linear"


class Train(Section):
    learning_rate: Annotated[Positive, Field(le=10)] = 5e-7
    batch_size: Count = 16
    """Pairs per optimiser step, over all processes."""
    micro_batch_size: Literal["auto"] | Count = "auto"
    """Pairs per process and forward pass; with KTO rows, two per pair. `auto`: as many as fit into the GPU's memory
    by a rough estimate; without a GPU one pair. Results do not depend on it, except by rounding."""
    epochs: Annotated[Positive, Field(le=10_000)] = 1.0
    nll_weight: NonNegative = 1.0
    """Weight of the NLL term of Eq. 11."""
    beta: Positive = 0.1
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    """`adafactor` keeps much less optimiser state than `adamw`. It needs `deepspeed: none`."""
    scheduler: Text = "cosine"
    """Learning rate scheduler, by transformers' name: cosine, linear, constant, constant_with_warmup, inverse_sqrt,
    polynomial, cosine_with_restarts, cosine_with_min_lr, warmup_stable_decay, reduce_lr_on_plateau, …"""
    scheduler_arguments: dict[str, Annotated[int, Field(strict=True)] | Number | str] = {}
    """Arguments of the scheduler, such as {min_lr_rate: 0.1} for cosine_with_min_lr."""
    warmup_ratio: Share = WARMUP_RATIO
    """Share of the optimiser steps used for warm-up from 0, rounded down to whole steps."""
    warmup_steps: Annotated[Whole, Field(ge=0)] | None = None
    """Number of warm-up steps. Replaces `warmup_ratio`."""
    dropout: Annotated[Share, Field(lt=1)] = 0.0
    """Dropout in the model's own layers during training. An error for models without dropout layers."""
    weight_decay: NonNegative = 0.0
    max_grad_norm: Positive = 1.0
    deepspeed: Text = "zero2"
    """`zero2` | `zero3` | `none` | path of a DeepSpeed JSON file."""
    processes: Literal["auto"] | Processes = "auto"
    """Training processes on each node. `auto`: one per GPU, or one without a GPU."""
    nodes: Processes = 1
    """Machines that train together. They share the run folder. With a `cluster` they are nodes of that; otherwise
    `launcher` starts them. Sampling and scoring use only the machine that icr runs on, or those of `cluster`."""
    launcher: str = ""
    """For several nodes: the command that starts a program once on each node, such as `srun --ntasks-per-node=1`. With
    it a `cluster` is not used for training."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """`auto`: bf16 if the hardware supports it, else fp32."""
    gradient_checkpointing: bool = True
    lora: Lora | None = None
    validation: NonNegative = 0
    """Pairs held back for validation: a share below 1, or a number of pairs. All pairs of a prompt are held back
    together. The exported model is the one with the lowest loss on them. 0: no validation."""
    validation_steps: Count | None = None
    """Optimiser steps between validations. Without it: a tenth of the training. The last step is always validated."""
    save_minutes: Positive = 15
    """Minutes between checkpoints. A killed training continues from the last one."""
    save_steps: Count | None = None
    """Optimiser steps between checkpoints. Replaces `save_minutes`."""
    seed: Seed = 42
    report_to: Text = "none"
    """Experiment tracker(s) that transformers supports: none, tensorboard, wandb, trackio, … Of `icr iterate` they get
    the whole run (docs/run-folder.md, Trackers)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.warmup_steps is not None and self.warmup_ratio != type(self).model_fields["warmup_ratio"].default:
            raise ValueError("both warmup_ratio and warmup_steps are set; remove one of them")
        if self.validation >= 1 and self.validation != int(self.validation):
            raise ValueError("validation must be a share below 1 or a whole number of pairs")
        return self


def reward_models(reward: Reward, languages: list[str]) -> dict[str, str]:
    """Language → the classifier of `reward.model`; a language that a mapping leaves out is not there."""
    if reward.kind != "model" or reward.model is None:
        return {}
    if isinstance(reward.model, str):
        return dict.fromkeys(languages, reward.model)
    return {lang: reward.model[lang] for lang in languages if lang in reward.model}


class Cluster(Section):
    address: Text | None = None
    """A Ray cluster to sample, score and judge on: `auto` for the one that this machine belongs to, or HOST:PORT.
    Without it icr uses this machine alone. See docs/cluster.md."""
    workers: Literal["all"] | Processes = "all"
    """Engines on the cluster, each with `sampling.tensor_parallel` GPUs of one node. `all`: as many as there is room
    for; on nodes without GPUs one a node."""
    retries: Annotated[Whole, Field(ge=1, le=100)] = 2
    """How often a failed shard is tried again on the cluster before it is cut in halves to find the prompt to blame."""
    models: Text | None = None
    """A bucket, such as s3://bucket/folder or gs://bucket/folder. Models are copied there, and from there once to each
    node, which then need not see this machine's folders. Without it all nodes see them at the same paths."""


class Config(Section):
    command: ClassVar[str] = "icr iterate"
    run: Text | None = None
    """The run folder; `--run` overrides it."""
    rounds: Annotated[Count, Field(le=1000)] = 2
    stop_when: Literal["never", "worse"] = "never"
    """`worse` ends the run after a judged round that is worse than the one before: the 95 % interval of its difference
    in win rate is below 0, or its answers are in the right language less often by more than 5 points. Each round then
    waits for the verdicts on the one before; with `never`, endpoints are asked while the next round goes on."""
    models: Models
    alignment: Alignment | None = None
    prompts: Prompts
    sampling: Sampling = Sampling()
    reward: Reward = Reward()
    objective: Text = "dpo"
    """`dpo` (Eq. 11), `kto` (Eq. 16), or a custom `module:Class`."""
    train: Train = Train()
    judge: Judge = Judge()
    cluster: Cluster = Cluster()
