"""Two further families in a few lines each: they show that a kind of training is one object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import Module
from torch.nn import functional as F

from loops.batches import Batch
from loops.families import IDS, PAD, Family, Row, column, pad_sequences
from loops.objective import Objective, Pair, Request, named_prompt
from loops.trainers import LanguageModelTrainer, RoundTrainer


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


class BradleyTerry(_WithoutReference):
    """−log σ(r(chosen) − r(rejected)), r a classifier's one logit."""

    family: ClassVar[str] = "tests.helpers.small_families:ClassifierFamily"

    def dataset(
        self, pairs: Sequence[Pair], reference_logps: Sequence[float], *, seed: int = 0
    ) -> list[dict[str, Any]]:
        sides = ("chosen_ids", "rejected_ids")
        return [{**named_prompt(pair), **{side: pair[side] for side in sides}} for pair in pairs]


class ClassifierTrainer(RoundTrainer[BradleyTerry]):
    def losses(self, model: Module, inputs: Batch) -> Tensor:
        logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[:, 0]
        chosen, rejected = logits.float().chunk(2)
        self.record({"rewards/margins": chosen - rejected}, inputs["weight"])
        return -F.logsigmoid(chosen - rejected)


class ClassifierFamily(Family[BradleyTerry]):
    columns: ClassVar = {"chosen_ids": IDS, "rejected_ids": IDS}
    answers: ClassVar = ("chosen_ids", "rejected_ids")
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    lora_task: ClassVar[str] = "SEQ_CLS"
    new_weights: ClassVar = ("score.",)
    unused_weights: ClassVar = ("lm_head.",)

    def collate(self, rows: Sequence[Row]) -> Batch:
        sequences = [(row["prompt_ids"], row[side]) for side in self.answers for row in rows]
        ids, attention, _ = pad_sequences(sequences)
        return {"input_ids": ids, "attention_mask": attention, "weight": column(rows, "weight")}

    def trainer(self) -> type[ClassifierTrainer]:
        return ClassifierTrainer

    def config_changes(self) -> dict[str, Any]:
        return {"num_labels": 1, "id2label": {0: "reward"}, "label2id": {"reward": 0}, "pad_token_id": PAD}
