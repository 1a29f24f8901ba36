"""A further family in a few lines: it shows that a kind of training is one object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import Module

from loops.batches import Batch
from loops.families import IDS, Family, Row, column, pad_sequences
from loops.objective import Objective, Pair, Request, named_prompt
from loops.trainers import LanguageModelTrainer


class _WithoutReference(Objective):
    def reference_requests(self, pairs: Sequence[Pair], *, seed: int = 0) -> list[Request]:
        return []


class SFT(_WithoutReference):
    """−log π(y|x)/|y| of the chosen answers."""

    family: ClassVar[str] = "tests.helpers.small_families:SFTFamily"

    def dataset(
        self, pairs: Sequence[Pair], reference_logps: Sequence[float], *, seed: int = 0
    ) -> list[dict[str, Any]]:
        return [{**named_prompt(pair), "chosen_ids": pair["chosen_ids"]} for pair in pairs]


class SFTTrainer(LanguageModelTrainer[SFT]):
    def losses(self, model: Module, inputs: Batch) -> Tensor:
        return -self.response_logps(model, inputs) / inputs["answer_mask"].sum(dim=1)


class SFTFamily(Family[SFT]):
    columns: ClassVar = {"chosen_ids": IDS}
    answers: ClassVar = ("chosen_ids",)

    def collate(self, rows: Sequence[Row]) -> Batch:
        padded = pad_sequences([(row["prompt_ids"], row["chosen_ids"]) for row in rows])
        names = ("input_ids", "attention_mask", "answer_mask")
        return {**dict(zip(names, padded, strict=True)), "weight": column(rows, "weight")}

    def trainer(self) -> type[SFTTrainer]:
        return SFTTrainer
