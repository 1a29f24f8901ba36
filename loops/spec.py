"""What one training is asked to do: a typed file that its caller writes and `loops.train` reads. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, field_validator

from icr.config.schema import Train


class TrainSpec(BaseModel):
    """What one training is asked to do."""

    model: str
    """The model that is trained on, π_θ^{t-1} in a round: a folder or a hub id."""
    data: Path
    """Written by `loops.data.write_training_data`."""
    output: Path
    """The final model; it appears whole. A training whose output exists is done."""
    work: Path
    """For `metrics.jsonl`, `validation.jsonl` and `counts.json`, and for `checkpoints/` and `best/` until the end."""
    events: Path
    """Where progress, the result or an error is written, see `icr.progress`."""
    objective: str = "dpo"
    train: Train = Train()
    chat_template: Path | None = None
    """`models.chat_template`: goes into the final model in place of the base's."""
    facts: dict[str, Any] = {}
    """For the model card, see `loops.export.write_model_card`."""

    @field_validator("train")
    @classmethod
    def _has_precision(cls, train: Train) -> Train:
        if train.precision == "auto":
            raise ValueError("the caller decides on a precision, because the reference is scored in the same one")
        return train
