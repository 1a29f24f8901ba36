"""The config of `icr rl`: a policy trained against a reward model."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from icr.config.reward_model import REWARD_WARMUP
from icr.config.schema import Train
from icr.config.values import Count, NonNegative, Positive, Section, Share, TemplateArguments, Text, Tokens, Whole

UNUSED = ("beta", "nll_weight", "dropout", "validation", "validation_steps")
"""Keys of a run's `train` that have no meaning here."""


class RLReward(Section):
    """What a response is worth: r(x, y) − β·(log π(y|x) − log π_SFT(y|x))."""

    model: Text
    """The reward model that gives r: a sequence classifier with one logit, of any language; hub id or folder."""
    beta: NonNegative = 0.1
    """β."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Weights and forward pass of the reward models. `auto`: bf16 if the hardware supports it, else fp32."""
    batch_tokens: Count = 16384
    """Tokens in one forward pass of a reward model, padding included."""


class RLPrompts(Section):
    """What the policy answers, in its target language or in several."""

    path: Text
    """Prompts in any form that `icr prompts check` reads."""
    languages: Annotated[list[Text], Field(min_length=1)]
    """ISO 639-1 codes. English need not be one of them."""
    limit: Count | None = None
    """Use only the first N prompts, those for `heldout` among them."""


class RLSampling(Section):
    """The samples of a step, at temperature 1 and top-p 1: from the policy as it is."""

    backend: Literal["auto", "vllm", "transformers"] = "auto"
    """`auto`: vLLM on a GPU if it is installed, else transformers' generate."""
    n: Annotated[Whole, Field(ge=2, le=10_000)] = 4
    """Samples per prompt and step. The others of its prompt are each one's baseline."""
    max_tokens: Tokens = 256
    """Longest sample. Prompts that leave less room in the policy's context are left out and counted."""
    gpu_memory: Annotated[Share, Field(gt=0)] = 0.3
    """Share of a GPU's memory for vLLM, beside the training."""


class RLMeasuring(Section):
    """What is measured between the steps, on prompts that are not trained on."""

    prompts: Count = 64
    """How many prompts are held out."""
    samples: Count = 1
    """Samples per prompt at each measurement."""
    every: Count = 50
    """Optimiser steps between measurements. Before the first step and after the last one is always measured, and at
    once when the KL of a step's own samples is above `max_kl`."""


class RLHeldOut(RLMeasuring):
    """What is measured between the steps, on prompts that are not trained on."""

    path: Text | None = None
    """Held-out prompts, of which the first are taken. Without it some of `prompts` are held back, in all their
    languages."""
    reward_models: dict[Text, Text] = {}
    """Name → reward model that scores the held-out samples as well, such as the target language's own. The training
    does not see them."""


class RLTrain(Train):
    """The training, with the keys of a run's `train` but for those that RLOO has no use for."""

    learning_rate: Annotated[Positive, Field(le=10)] = 1e-6
    batch_size: Count = 16
    """Prompts per optimiser step, over all processes, each with `sampling.n` samples."""
    micro_batch_size: Literal["auto"] | Count = "auto"
    """Samples per process and forward pass. `auto`: as many as fit into the GPU's memory by a rough estimate; without a
    GPU those of one prompt. Results do not depend on it, except by rounding."""
    epochs: Annotated[Positive, Field(le=10_000)] = 1.0
    """Passes over the prompts; a batch that is not full is left out at the end."""
    warmup_ratio: Share = REWARD_WARMUP
    """Share of the optimiser steps used for warm-up from 0, rounded down to whole steps."""

    @model_validator(mode="after")
    def _check_rl(self) -> Self:
        for name in UNUSED:
            if getattr(self, name) != Train.model_fields[name].default:
                raise ValueError(f"{name} has no meaning for RLOO; remove it")
        if self.lora is not None and self.lora.dropout:
            raise ValueError("lora.dropout has no meaning for RLOO; remove it")
        return self


class RLConfig(Section):
    """The content of the file that `icr rl` reads."""

    page: ClassVar[str] = "docs/rl-config.md"
    command: ClassVar[str] = "icr rl"
    run: Text | None = None
    """The output folder; `--run` overrides it. The policy is in RUN/model."""
    policy: Text
    """π_SFT: the model that the training starts from, and that KL is measured from; hub id or folder."""
    chat_template: Text | None = None
    """A Jinja file, for models whose tokenizer has no chat template."""
    template_arguments: TemplateArguments = {}
    """Arguments of the policy's chat template, such as {enable_thinking: false}."""
    max_kl: Positive = 20.0
    """Nats per sequence. When the KL to π_SFT, measured on held-out prompts, is above it, the training stops, and the
    policy of the measurement before is the result."""
    reward: RLReward
    prompts: RLPrompts
    sampling: RLSampling = RLSampling()
    heldout: RLHeldOut = RLHeldOut()
    train: RLTrain = RLTrain()

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        if "reward" in self.heldout.reward_models:
            raise ValueError("heldout.reward_models has the name reward, which is reward.model's; use another")
        return self
