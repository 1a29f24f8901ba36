"""The settings of one benchmark on one model without a run: `icr judge xalpaca`, `mtbench`, `nlp` and `accuracy`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from icr.config.schema import Judge, Sampling
from icr.config.values import Section, TemplateArguments

Benchmark = Literal["xalpaca", "mtbench", "nlp", "accuracy"]


class EvaluationConfig(Section):
    """The content of `OUT/evaluation.yaml`."""

    benchmark: Benchmark
    model: str = ""
    """The model to measure: hub id, folder, .gguf file, or a folder of answers. Empty for accuracy."""
    languages: Annotated[list[str], Field(min_length=1)]
    """ISO 639-1 codes."""
    chat_template: str | None = None
    """A Jinja file, for models whose tokenizer has no chat template."""
    template_arguments: TemplateArguments = Field(default_factory=dict)
    """Arguments of the chat template, such as {enable_thinking: false}."""
    sampling: Sampling = Sampling()
    judge: Judge = Judge()
