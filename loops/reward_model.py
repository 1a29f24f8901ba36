"""Trainings of reward models: any encoder or decoder of transformers with one logit."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, ClassVar, TypeVar

import pyarrow as pa
import torch
from torch.nn import Linear, Module, Parameter

from loops.batches import Batch, Row
from loops.families import IDS, Family, column, pad_sequences
from loops.reward import Pairwise, Pointwise, RewardObjective

if TYPE_CHECKING:
    from loops.reward_trainer import PairwiseTrainer, PointwiseTrainer

R_co = TypeVar("R_co", bound=RewardObjective, covariant=True)


class RewardFamily(Family[R_co]):
    """A sequence classifier with one label.

    In the data of `icr rm train` an answer's column has the whole sequence, and `prompt_ids` is empty:
    `icr.engines.classifier.read_conversation` made it, as it makes what is scored later. Beside it are the tokens'
    segments, for encoders that tell two texts apart.
    """

    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    lora_task: ClassVar[str] = "SEQ_CLS"
    by_length: ClassVar[bool] = True
    new_weights: ClassVar = ("score.", "classifier.", "head.", "pooler.", "bert.pooler.", "roberta.pooler.")
    unused_weights: ClassVar = ("lm_head.", "cls.", "decoder.", "vocab_", "mask_predictions.", "lm_predictions.")

    def sequences(self, rows: Sequence[Row]) -> Batch:
        """`input_ids`, `attention_mask` and, where a token is of the second segment, `token_type_ids`, of
        len(answers)·B rows: those of the first column first."""
        every = [(row, name) for name in self.answers for row in rows]
        ids, attention, _ = pad_sequences([(row["prompt_ids"], row[name]) for row, name in every], self.objective.pad)
        batch = {"input_ids": ids, "attention_mask": attention}
        segments = [([0] * len(row["prompt_ids"]), row[name.replace("_ids", "_segments")]) for row, name in every]
        if any(any(of_answer) for _, of_answer in segments):
            batch["token_type_ids"] = pad_sequences(segments, 0)[0]
        return batch

    def config_changes(self) -> dict[str, object]:
        """One label; programs that know `problem_type` leave its logit as it is."""
        return {
            "num_labels": 1,
            "id2label": {0: "reward"},
            "label2id": {"reward": 0},
            "problem_type": "regression",
            "pad_token_id": self.objective.pad,
        }

    def tokenizer_changes(self) -> dict[str, object]:
        return {} if self.objective.pad_token is None else {"pad_token": self.objective.pad_token}

    def start(self, model: Module, missing: Collection[str]) -> None:
        """A new head is drawn from N(0, 1/(d + 1)), d its inputs, and has no bias: one that its class has stays 0."""
        heads = [(name, part) for name, part in model.named_modules() if isinstance(part, Linear)]
        for name, head in heads:
            if head.out_features != 1 or f"{name}.weight" not in missing:
                continue
            with _whole(list(head.parameters())), torch.no_grad():
                head.weight.normal_(0.0, (head.in_features + 1) ** -0.5)
                if head.bias is not None:
                    head.bias.zero_()
            if head.bias is not None:
                head.bias.requires_grad_(False)


class PairwiseFamily(RewardFamily[Pairwise]):
    """Bradley–Terry on pairs."""

    columns: ClassVar = {
        "chosen_ids": IDS, "rejected_ids": IDS, "chosen_segments": IDS, "rejected_segments": IDS,
        "margin": pa.float64(),
    }  # fmt: skip
    answers: ClassVar = ("chosen_ids", "rejected_ids")

    def collate(self, rows: Sequence[Row]) -> Batch:
        """2·B sequences: first the chosen, then the rejected."""
        return {**self.sequences(rows), "margin": column(rows, "margin"), "weight": column(rows, "weight")}

    def trainer(self) -> type[PairwiseTrainer]:
        from loops.reward_trainer import PairwiseTrainer

        return PairwiseTrainer


class PointwiseFamily(RewardFamily[Pointwise]):
    """Cross-entropy on ratings."""

    columns: ClassVar = {"response_ids": IDS, "response_segments": IDS, "label": pa.float64()}
    answers: ClassVar = ("response_ids",)

    def collate(self, rows: Sequence[Row]) -> Batch:
        """B sequences."""
        return {**self.sequences(rows), "label": column(rows, "label"), "weight": column(rows, "weight")}

    def trainer(self) -> type[PointwiseTrainer]:
        from loops.reward_trainer import PointwiseTrainer

        return PointwiseTrainer


def _whole(parameters: list[Parameter]) -> AbstractContextManager[object]:
    """Within it, parameters that ZeRO-3 has shared out are whole, and what the first rank writes reaches all."""
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        return nullcontext()
    import deepspeed

    gathered: AbstractContextManager[object] = deepspeed.zero.GatheredParameters(parameters, modifier_rank=0)
    return gathered
