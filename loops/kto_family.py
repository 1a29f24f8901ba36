"""KTO's training: on single answers, each with a mismatched one beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import pyarrow as pa

from loops.batches import Batch, Row
from loops.families import IDS, Family, column, pad_sequences
from loops.kto import KTO

if TYPE_CHECKING:
    from loops.kto_trainer import KTOTrainer


class KTOFamily(Family[KTO]):
    """A language model, trained on the log-prob of a row's answer; that of the mismatched one goes into z_ref."""

    columns: ClassVar = {
        "completion_ids": IDS,
        "KL_completion_ids": IDS,
        "label": pa.bool_(),
        "ref_logps": pa.float64(),
        "ref_KL_logps": pa.float64(),
    }
    answers: ClassVar = ("completion_ids", "KL_completion_ids")

    def collate(self, rows: Sequence[Row]) -> Batch:
        """`input_ids`, `attention_mask` and `answer_mask` of the B answers; `KL_…` of the mismatched ones."""
        batch = {name: column(rows, name) for name in ("label", "ref_logps", "ref_KL_logps", "weight")}
        for prefix, answers in (("", "completion_ids"), ("KL_", "KL_completion_ids")):
            padded = pad_sequences([(row["prompt_ids"], row[answers]) for row in rows])
            names = (f"{prefix}{name}" for name in ("input_ids", "attention_mask", "answer_mask"))
            batch.update(zip(names, padded, strict=True))
        return batch

    def look_at(self, rows: pa.Table) -> None:
        labels = rows["label"].to_pylist()
        self.objective.set_counts(sum(labels), len(labels) - sum(labels))

    def trainer(self) -> type[KTOTrainer]:
        from loops.kto_trainer import KTOTrainer

        return KTOTrainer
