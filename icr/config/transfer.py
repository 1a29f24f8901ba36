"""The config of `icr transfer`: reward models of several source languages, measured in several target languages."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from icr.config.reward_model import RewardTrain
from icr.config.values import Count, NonNegative, Section, TemplateArguments, Text, Tokens

Languages = Annotated[list[Text], Field(min_length=1)]


class TransferLanguages(Section):
    """Which languages, by ISO 639-1 codes."""

    sources: Languages
    """One reward model each, trained on the rows of this language alone."""
    targets: Languages
    """Where every reward model is measured, on the held-back rows."""
    pooled: list[Annotated[list[Text], Field(min_length=2)]] = []
    """One reward model each, trained on the rows of several languages together."""

    @model_validator(mode="after")
    def _check_once(self) -> Self:
        for name in ("sources", "targets"):
            codes = getattr(self, name)
            if len(set(codes)) < len(codes):
                raise ValueError(f"{name} lists a language twice; list each once")
        pools = [tuple(sorted(pool)) for pool in self.pooled]
        if len(set(pools)) < len(pools) or any(len(set(pool)) < len(pool) for pool in pools):
            raise ValueError("pooled lists a language or a group twice; list each once")
        return self


class TransferData(Section):
    """What the reward models are trained and measured on."""

    preferences: Text
    """A folder that `icr rm data` made, with rows of all languages."""
    limit: Count | None = None
    """Use only the first N training rows of each language, so that sources are compared at one size."""
    mix: Literal["natural", "even"] = "natural"
    """As in `icr rm train`: what a pooled model sees of each language."""


class TransferModels(Section):
    """The training of each reward model, with the keys of `icr rm train`."""

    loss: Literal["auto", "pairwise", "pointwise"] = "auto"
    margin: bool = False
    center: NonNegative = 0.0
    max_tokens: Tokens = 2048
    truncate: Literal["drop", "left"] = "drop"
    chat_template: Text | None = None
    template_arguments: TemplateArguments = {}
    train: RewardTrain = RewardTrain()


class TransferConfig(Section):
    """The content of the file that `icr transfer` reads."""

    run: Text | None = None
    """The output folder; `--run` overrides it."""
    base: Text
    """What every reward model starts from: an encoder or a causal model; hub id or folder."""
    languages: TransferLanguages
    data: TransferData
    reward_model: TransferModels = TransferModels()
