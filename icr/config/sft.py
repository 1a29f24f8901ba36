"""The config of `icr sft`: supervised fine-tuning on demonstrations."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from icr.config.reward_model import REWARD_WARMUP, RewardData
from icr.config.schema import Train
from icr.config.values import Count, Positive, Section, Share, TemplateArguments, Text, Tokens


class SftTrain(Train):
    """The training, with the keys of a run's `train` but for those that only alignment has."""

    learning_rate: Annotated[Positive, Field(le=10)] = 1e-5
    batch_size: Count = 32
    """Demonstrations per optimiser step, over all processes."""
    warmup_ratio: Share = REWARD_WARMUP
    """Share of the optimiser steps used for warm-up from 0, rounded down to whole steps."""
    validation_steps: Count | None = 100
    """Optimiser steps between validations on the held-out groups. The last step is always validated. `best` says
    which of the validated models is exported."""
    patience: Count | None = None
    """Stop after this number of validations in a row that are not better than the best one before, by `best`."""

    @model_validator(mode="after")
    def _check_sft(self) -> Self:
        for name in ("beta", "nll_weight", "validation"):
            if getattr(self, name) != Train.model_fields[name].default:
                raise ValueError(f"{name} has no meaning for supervised fine-tuning; remove it")
        return self


class SftBest(Section):
    """Which of the validated models is exported; of equal ones the first."""

    by: Literal["loss", "rouge-l"] = "loss"
    """`loss`: the one with the lowest validation loss. `rouge-l`: the one whose greedy answers are nearest to the
    held-out demonstrations, by their mean ROUGE-L over the words of any script."""
    limit: Count | None = None
    """rouge-l: answer only the first N held-out demonstrations of each language."""
    max_tokens: Tokens = 256
    """rouge-l: longest answer."""


class SftConfig(Section):
    """The content of the file that `icr sft` reads."""

    page: ClassVar[str] = "docs/sft-config.md"
    command: ClassVar[str] = "icr sft"
    run: Text | None = None
    """The output folder; `--run` overrides it. The model is in RUN/model."""
    base: Text
    """What the training starts from: a causal language model; hub id or folder."""
    chat_template: Text | None = None
    """A Jinja file, for models whose tokenizer has no chat template."""
    template_arguments: TemplateArguments = {}
    """Arguments of the chat template, such as {enable_thinking: false}."""
    data: RewardData
    """Demonstrations: of pairs the chosen responses, of ratings those with label 1."""
    max_tokens: Tokens = 2048
    """Longest sequence, prompt and response together; longer ones are left out and counted."""
    best: SftBest = SftBest()
    train: SftTrain = SftTrain()
