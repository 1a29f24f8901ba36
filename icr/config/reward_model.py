"""The config of `icr rm train`: one reward model."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from icr.config.schema import CONFIGS, Train
from icr.config.values import Count, NonNegative, Positive, Section, Share, TemplateArguments, Text, Tokens

RECIPES = CONFIGS / "reward-models"
REWARD_WARMUP = 0.1


class RewardData(Section):
    """What a reward model is trained on."""

    path: Text
    """A folder that `icr rm data` made."""
    languages: Annotated[list[Text], Field(min_length=1)] | None = None
    """ISO 639-1 codes of the rows to train on. Without it: all that are in the folder. Several: one pooled model."""
    limit: Count | None = None
    """Use only the first N training rows of each language."""
    mix: Literal["natural", "even"] = "natural"
    """`natural`: every row once a pass. `even`: languages with fewer rows repeat them, so that all are seen alike."""


class RewardTrain(Train):
    """The training, with the keys of a run's `train` but for those that only alignment has."""

    learning_rate: Annotated[Positive, Field(le=10)] = 1e-5
    batch_size: Count = 128
    """Pairs or ratings per optimiser step, over all processes."""
    warmup_ratio: Share = REWARD_WARMUP
    """Share of the optimiser steps used for warm-up from 0, rounded down to whole steps."""
    validation_steps: Count | None = 100
    """Optimiser steps between validations on the held-out groups. The last step is always validated. The exported
    model is the one with the lowest loss."""
    patience: Count | None = None
    """Stop after this number of validations in a row without a lower loss."""

    @model_validator(mode="after")
    def _check_reward(self) -> Self:
        for name in ("beta", "nll_weight", "validation"):
            if getattr(self, name) != Train.model_fields[name].default:
                raise ValueError(f"{name} has no meaning for a reward model; remove it")
        return self


class RewardModelConfig(Section):
    """The content of the file that `icr rm train` reads."""

    page: ClassVar[str] = "docs/reward-model-config.md"
    command: ClassVar[str] = "icr rm train"
    run: Text | None = None
    """The output folder; `--run` overrides it. The model is in RUN/model."""
    base: Text
    """What the training starts from: an encoder or a causal model; hub id or folder."""
    chat_template: Text | None = None
    """A Jinja file, for decoders whose tokenizer has no chat template."""
    template_arguments: TemplateArguments = {}
    """Arguments of the chat template, such as {enable_thinking: false}."""
    data: RewardData
    loss: Literal["auto", "pairwise", "pointwise"] = "auto"
    """`pairwise` (Bradley–Terry) for pairs, `pointwise` (cross-entropy) for ratings. `auto`: by the data."""
    margin: bool = False
    """pairwise: subtract each pair's `margin` inside σ; pairs without one have 0."""
    center: NonNegative = 0.0
    """pairwise: c of c·(r_w + r_l)², which keeps rewards around 0."""
    max_tokens: Tokens = 2048
    """Longest sequence, prompt and response together; at most what the base reads."""
    truncate: Literal["drop", "left"] = "drop"
    """Longer sequences. `drop`: the row is left out and counted. `left`: tokens at the beginning are cut off."""
    train: RewardTrain = RewardTrain()
