"""The config: one YAML file, every key typed and documented, every problem reported at once.

The field docstrings below are the documentation of the keys; `docs/config.md` is made from them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
WARMUP_RATIO = 0.03


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
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Weights and forward pass of the engine. `auto`: bf16 where the hardware computes it, else fp32."""
    tensor_parallel: Count = 1
    """GPUs per engine; the remaining GPUs run further engines side by side."""
    gpu_memory: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of a GPU's memory given to vLLM."""


class Reward(Section):
    kind: (
        Literal["cross-lingual", "multilingual", "translate", "model", "random", "lidr"]
        | Annotated[str, Field(pattern=r"^.+:\w+$")]
    ) = "cross-lingual"
    """`cross-lingual`: log-ratio given the prefixed English prompt (Eq. 9). `multilingual`: given the prompt as asked
    (Eq. 12). `translate`: of the response's translation by the policy, given the English prompt (Eq. 13). `model`: the
    logit of the classifier `reward.model`. `random`: a control. `module:Class`: your own (docs/reward.md). `lidr`: no
    reward but the baseline of arXiv 2410.08964, with one greedy response per prompt, whatever `sampling` says."""
    model: str | None = None
    """model: a sequence classifier with one logit, as a hub id or folder."""
    beta: Positive = 0.1
    length_penalty: Literal["fit", "none"] | float = "fit"
    """`fit`: α per language by Eq. 15; a number: that α for every language."""
    length_unit: Literal["characters", "tokens"] = "characters"
    reference: Literal["initial", "previous"] = "initial"
    """π_ref of the log-ratio: π_I, or the policy of the round before."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Weights and forward pass of the scorer or classifier; log-sum-exp and sums are fp32 and fp64 in any case.
    `auto`: bf16 where the hardware computes it, else fp32."""
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
    """Pairs per process and forward pass; with KTO rows, two of a pair."""
    epochs: Positive = 1.0
    nll_weight: NonNegative = 1.0
    """Weight of the NLL term of Eq. 11."""
    beta: Positive = 0.1
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    """`adafactor` keeps much less beside the weights than `adamw`; it needs `deepspeed: none`."""
    scheduler: str = "cosine"
    """The learning rate's course, by transformers' name: cosine, linear, constant, constant_with_warmup, inverse_sqrt,
    polynomial, cosine_with_restarts, cosine_with_min_lr, warmup_stable_decay, reduce_lr_on_plateau, …"""
    scheduler_arguments: dict[str, float | int | str] = {}
    """What the scheduler needs beside its name, such as {min_lr_rate: 0.1} for cosine_with_min_lr."""
    warmup_ratio: Annotated[float, Field(ge=0, le=1)] = WARMUP_RATIO
    """Share of the optimiser steps in which the learning rate rises from 0, rounded down to whole steps."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """The same as a number of optimiser steps, in place of the share."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout in the model's own layers while it is trained; refused for models that have none."""
    weight_decay: NonNegative = 0.0
    max_grad_norm: Positive = 1.0
    deepspeed: str = "zero2"
    """`zero2` | `zero3` | `none` | a DeepSpeed JSON file."""
    processes: Literal["auto"] | Count = "auto"
    """On each node. `auto`: one per GPU, or one on a machine without."""
    nodes: Count = 1
    """Machines that train together; they share the run folder. Sampling and scoring use the one that icr runs on."""
    launcher: str = ""
    """Several nodes: the command that starts a program once on each of them, such as `srun --ntasks-per-node=1`."""
    precision: Literal["auto", "bf16", "fp32"] = "bf16"
    """`auto`: bf16 where the hardware computes it, else fp32."""
    gradient_checkpointing: bool = True
    lora: Lora | None = None
    validation: NonNegative = 0
    """Pairs held back from the training, all of a prompt together: a share below 1, or a number. The exported model is
    the one with the lowest loss on them. 0: none."""
    validation_steps: Count | None = None
    """Optimiser steps from one validation to the next; without it a tenth of the training. The end is validated too."""
    save_minutes: Positive = 15
    """Minutes between the checkpoints that a killed training continues from."""
    save_steps: Count | None = None
    """Optimiser steps between these checkpoints, in place of minutes."""
    seed: int = 42
    report_to: str = "none"
    """Tracker(s) of transformers: none, tensorboard, wandb, trackio, …"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.warmup_steps is not None and self.warmup_ratio != WARMUP_RATIO:
            raise ValueError("both warmup_ratio and warmup_steps are given; leave one of them out")
        if self.validation >= 1 and self.validation != int(self.validation):
            raise ValueError("validation is a share below 1 or a whole number of pairs")
        return self


class Endpoint(Section):
    """An OpenAI-compatible endpoint; the key comes from OPENAI_API_KEY."""

    base_url: str | None = None
    """The endpoint's address, such as http://localhost:8000/v1. Without it OPENAI_BASE_URL, else OpenAI's own."""
    concurrency: Count = 16
    """Requests under way at a time."""
    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    """Prompt and completion tokens together."""
    attempts: Count = 6
    """How often a request is tried."""
    timeout: Positive = 120.0
    """Seconds until a request that has no answer counts as failed."""
    budget: Positive | None = None
    """US dollars of this command's own requests; at that sum it stops, and what was answered is kept."""
    prices: str | None = None
    """YAML of MODEL: {input: …, output: …}, US dollars per million tokens, before the known prices."""

    def named(self, key: str) -> str:
        """What the user sets a key by: here the option of a command."""
        return f"--{key.replace('_', '-')}"


class MtBench(Section):
    questions: str
    """Folder of LANG.jsonl in FastChat's question format."""
    references: str | None = None
    """Folder of LANG.jsonl in FastChat's reference-answer format; `judge`: the judge writes what is missing. Without
    it, the references in the question files."""
    limit: Count | None = None
    """Use only the first this-many questions of each category."""
    max_tokens: Count = 1024


class Accuracy(Section):
    pairs: Count = 100
    """Pairs per language out of a round's pairs."""


class Nlp(Section):
    """NLP benchmarks by lm-eval (Table 4)."""

    tasks: Literal["paper"] | Annotated[list[str], Field(min_length=1)] = "paper"
    """`paper`: ARC, HellaSwag, MMLU and TruthfulQA in every language that has them. Or a list of lm-eval's task names;
    `{lang}` in a name stands for each language, `paper` for the paper's."""
    include_path: str | None = None
    """Folder of your own task files in lm-eval's form. Python functions that they name are run."""
    few_shot: dict[str, Annotated[int, Field(ge=0)]] = {}
    """Examples in the prompt by benchmark, such as {arc: 25}; else 5 for MMLU, 0 for the paper's others, and what its
    own file says for any other task."""
    limit: Count | None = None
    """Use only the first this-many items of each task."""
    backend: Literal["auto", "vllm", "transformers"] = "auto"
    """`auto`: vLLM on a GPU where it is installed, else transformers."""
    batch_size: Literal["auto"] | Count = "auto"
    """transformers: texts in one forward pass; `auto`: what the GPU's memory holds, 16 without a GPU."""


class Judge(Endpoint):
    """Who judges what. The keys of an endpoint are for `kind: openai`."""

    kind: Literal["local", "openai", "none"] | Annotated[str, Field(pattern=r"^.+:\w+$")] = "none"
    """`local`: a local model's probabilities. `openai`: any OpenAI-compatible endpoint. `module:Class`: your own, which
    compares two answers (docs/evaluation.md)."""
    model: str | None = None
    """local: hub id, folder or .gguf; openai: the model's name at the endpoint."""
    benchmarks: Annotated[list[Literal["xalpaca", "mtbench", "accuracy", "nlp"]], Field(min_length=1)] = ["xalpaca"]
    """What is measured: win rates against the baseline, MT-Bench, agreement of the judge with the round's pairs, NLP
    tasks."""
    every: Count = 1
    """Judge after every this-many rounds; round 0 and the last one in any case."""
    prompts: str | None = None
    """xalpaca: held-out prompts, in the form of `prompts.path`; joined by id, too."""
    limit: Count | None = None
    """xalpaca: use only the first this-many prompts, in the order of the English ones."""
    baseline: str = "round-0"
    """xalpaca: `round-0`, or a folder of LANG.json / LANG.jsonl answers (`id`, `output`) to compare with."""
    orders: Literal["both", "seeded"] = "both"
    """xalpaca: every pair in both orders, or in one that a coin per prompt decides."""
    preference: Literal["auto", "logprobs", "label"] = "auto"
    """A label's share from its log-probabilities (`logprobs`; `auto`: where the judge returns them), or all for the
    label that was written."""
    difficulty: str | None = None
    """xalpaca: csv of `index` (the prompt's number, from 0) and `difficulty`, for the length-controlled win rate."""
    gamed: str | None = None
    """xalpaca: csv of the two gamed baselines' judged pairs, which regularise it."""
    max_tokens: Count = 2048
    temperature: NonNegative = 0.6
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    mtbench: MtBench | None = None
    accuracy: Accuracy = Accuracy()
    nlp: Nlp = Nlp()

    def named(self, key: str) -> str:
        """What the user sets a key by."""
        return f"judge.{key}"

    @property
    def own(self) -> str | None:
        """The user's own judge, as `module:Class`."""
        return self.kind if ":" in self.kind else None

    @property
    def local_model(self) -> str | None:
        """The model that is loaded to judge; None where an endpoint does, or nobody."""
        return self.model if self.kind == "local" else None

    @property
    def active(self) -> bool:
        """Whether a run has judge stages; NLP tasks need no judge."""
        return self.kind != "none" or "nlp" in self.benchmarks


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
