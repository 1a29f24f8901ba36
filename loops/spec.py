"""What one training is asked to do: a typed file that its caller writes and `loops.train` reads. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, field_validator

from icr.config.schema import Train
from icr.engines.templates import Arguments

METHOD = (
    "Made by Implicit Cross-Lingual Rewarding (arXiv 2503.04647): the policy's own answers, paired by the reward\n"
    "implied by its English alignment, and trained on in every language."
)


class CardFacts(BaseModel):
    """What the final model's card says; all of it may be absent."""

    method: str = METHOD
    """One sentence."""
    tag: str = "implicit-cross-lingual-rewarding"

    round: int | None = None
    objective: str | None = None
    languages: list[str] = []
    pairs: int | dict[str, int] | None = None
    """That were trained on, in all or by language."""
    alpha: dict[str, float | None] = {}
    """By language."""
    length_unit: str = "length unit"
    base: str | None = None
    """The model trained from."""
    reference: str | None = None
    """Of the reward."""
    settings: dict[str, object] = {}
    """Of the training."""


def adapter_folder(output: Path) -> Path:
    """Where LoRA's adapter is kept: beside the model, in which it is merged. Inside, loaders would take it for more."""
    return output.with_name("adapter")


class TrainSpec(BaseModel):
    """What one training is asked to do."""

    program: ClassVar[str] = "loops.train"
    """The module that does it."""

    model: str
    """The model that is trained on, π_θ^{t-1} in a round: a folder or a hub id."""
    data: Path
    """Written by `loops.data.write_training_data`."""
    output: Path
    """The final model; it appears whole. A training whose output exists is done."""
    work: Path
    """For `metrics.jsonl`, `validation.jsonl` and `counts.json`, and for `checkpoints/` and `best/` until the end."""
    events: Path
    """Where progress, the result or an error is written, see `icr.base.progress`."""
    objective: str = "dpo"
    settings: dict[str, bool | int | float | str] = {}
    """What the objective takes beyond `train`, see `loops.objective.Objective.configure`."""
    train: Train = Train()
    patience: int | None = None
    """Validations without a better one after which the training stops; None: it goes on to its end."""
    answer_tokens: int | None = None
    """Longest greedy answer to the validation rows that are marked for it (`loops.data.ANSWERED`). The exported model
    is then the one with the highest ROUGE-L of these answers; None: the one with the lowest validation loss."""
    chat_template: Path | None = None
    """`models.chat_template`: goes into the final model in place of the base's."""
    template_arguments: Arguments = {}
    """`models.template_arguments`: the final model's template has them."""
    facts: CardFacts = CardFacts()

    @property
    def best_by(self) -> Literal["loss", "rouge_l"]:
        """The figure of a validation that the exported model is chosen by."""
        return "loss" if self.answer_tokens is None else "rouge_l"

    @field_validator("train")
    @classmethod
    def _has_precision(cls, train: Train) -> Train:
        if train.precision == "auto":
            raise ValueError("the caller decides on a precision, because the reference is scored in the same one")
        return train
