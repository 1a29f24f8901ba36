"""The settings of `icr best-of-n`: which candidates are sampled."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from icr.config.schema import Prompts, Sampling
from icr.config.values import Count, Positive, Section, TemplateArguments, Text, Whole

CANDIDATES = 64


class CandidateSampling(Sampling):
    """The sampling, with the keys of a run's `sampling`."""

    n: Annotated[Whole, Field(ge=2, le=10_000)] = CANDIDATES
    """Candidates per prompt."""
    shard_size: Count = 16
    """Prompts per shard, the unit of work. A killed command loses its unfinished shards."""


class CandidateScoring(Section):
    """The scoring."""

    beta: Positive = 0.1
    """β of a log-ratio."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Weights and forward pass of the models that score. `auto`: bf16 if the hardware supports it, else fp32."""


class BestOfNConfig(Section):
    """The content of `OUT/best-of-n.yaml`."""

    page: ClassVar[str] = "docs/reward-models.md"
    model: Text
    """The model that is sampled: hub id, folder or .gguf file."""
    prompts: Prompts
    chat_template: str | None = None
    """A Jinja file, for models whose tokenizer has no chat template."""
    template_arguments: TemplateArguments = Field(default_factory=dict)
    """Arguments of the chat template, such as {enable_thinking: false}."""
    sampling: CandidateSampling = CandidateSampling()
    reward: CandidateScoring = CandidateScoring()
