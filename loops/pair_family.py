"""Trainings on pairs of a chosen and a rejected answer, by any `PairObjective`: DPO and those of users."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import pyarrow as pa

from loops.batches import Batch, Row
from loops.families import IDS, Family, column, pad_sequences
from loops.objective import PairObjective

if TYPE_CHECKING:
    from loops.pair_trainer import PairTrainer


class PairFamily(Family[PairObjective]):
    """A language model, trained on the log-probs of both answers of a pair."""

    columns: ClassVar = {
        "chosen_ids": IDS,
        "rejected_ids": IDS,
        "ref_chosen_logps": pa.float64(),
        "ref_rejected_logps": pa.float64(),
    }
    answers: ClassVar = ("chosen_ids", "rejected_ids")

    def collate(self, rows: Sequence[Row]) -> Batch:
        """`input_ids`, `attention_mask` and `answer_mask` have 2·B rows: first the chosen, then the rejected."""
        sequences = [(row["prompt_ids"], row[side]) for side in self.answers for row in rows]
        ids, attention, answer = pad_sequences(sequences)
        numbers = {name: column(rows, name) for name in ("ref_chosen_logps", "ref_rejected_logps", "weight")}
        return {"input_ids": ids, "attention_mask": attention, "answer_mask": answer, **numbers}

    def trainer(self) -> type[PairTrainer]:
        from loops.pair_trainer import PairTrainer

        return PairTrainer
