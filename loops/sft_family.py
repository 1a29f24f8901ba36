"""Trainings on demonstrations: one answer to each prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from loops.batches import Batch, Row
from loops.families import IDS, Family, column, pad_sequences
from loops.sft import SFT

if TYPE_CHECKING:
    from loops.sft_trainer import SFTTrainer


class SFTFamily(Family[SFT]):
    """A language model, trained on the log-probs of answers."""

    columns: ClassVar = {"response_ids": IDS}
    answers: ClassVar = ("response_ids",)

    def collate(self, rows: Sequence[Row]) -> Batch:
        """B sequences."""
        ids, attention, answer = pad_sequences([(row["prompt_ids"], row["response_ids"]) for row in rows])
        weights = column(rows, "weight")
        return {"input_ids": ids, "attention_mask": attention, "answer_mask": answer, "weight": weights}

    def trainer(self) -> type[SFTTrainer]:
        from loops.sft_trainer import SFTTrainer

        return SFTTrainer
