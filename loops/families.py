"""Families of training: what differs between kinds of training is one object, and all else is the same for all.

An objective says by its `family` which one it is trained by. A family knows its data's columns and how they become a
batch, which kind of model it loads and exports, and its trainer. What the reference has to score is said by the
objective itself (`reference_requests`; nothing at all, where there is no reference).

This file and the families import neither transformers nor trl: the caller that prepares the data needs neither.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import Module

from icr.base.errors import UserError
from icr.base.plugins import load_class
from loops.batches import Batch, Row
from loops.objective import Objective

if TYPE_CHECKING:
    from loops.trainers import RoundTrainer

IDS = pa.list_(pa.int32())
"""A column of token ids."""
PAD = 0
"""Fills up a batch. Any id of the vocabulary does: the attention mask and the labels leave these places out."""

O_co = TypeVar("O_co", bound=Objective, covariant=True)
"""A family keeps its objective, and never takes another."""


class Family(ABC, Generic[O_co]):
    """A kind of training, made for one objective."""

    columns: ClassVar[Mapping[str, pa.DataType]]
    """Of the data file, beside `prompt_id` and `prompt_ids`."""
    answers: ClassVar[tuple[str, ...]]
    """Those columns that hold token ids which follow the prompt. They count as tokens, and for a model's context."""
    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    """The class of transformers that loads the model."""
    lora_task: ClassVar[str] = "CAUSAL_LM"
    """peft's word for the kind of model."""
    new_weights: ClassVar[tuple[str, ...]] = ()
    """Beginnings of the names of weights that the base model need not have: they start at random and are exported."""
    unused_weights: ClassVar[tuple[str, ...]] = ()
    """Beginnings of the names of weights that only the base model has: they are neither loaded nor exported."""

    by_length: ClassVar[bool] = False
    """Whether rows go by their length within an optimiser step, and in a validation, so that micro-batches have little
    padding. Means are the same, but for rounding. For losses that do not look at the neighbours in a micro-batch."""

    def __init__(self, objective: O_co) -> None:
        self.objective = objective

    @abstractmethod
    def collate(self, rows: Sequence[Row]) -> Batch:
        """A micro-batch of rows, padded on the right."""

    @abstractmethod
    def trainer(self) -> type[RoundTrainer[O_co]]:
        """The trainer's class; imported here and not before."""

    def look_at(self, rows: pa.Table) -> None:
        """Take what the objective has to know of all rows that are trained on."""

    def config_changes(self) -> dict[str, object]:
        """What the exported `config.json` says otherwise than the base's; also how the model is configured."""
        return {}

    def tokenizer_changes(self) -> dict[str, object]:
        """What the exported `tokenizer_config.json` says otherwise than the base's."""
        return {}

    def start(self, model: Module, missing: Collection[str]) -> None:
        """Give the weights that the base lacks their first values; as transformers draws them, without this.

        Args:
            model: loaded, before any adapter; with ZeRO-3 its weights are split over the GPUs.
            missing: names of its weights that were not in the checkpoint.
        """


def family_of(objective: Objective) -> Family[Objective]:
    """The family that trains this objective. Raises UserError for an objective that names none."""
    if not objective.family:
        raise UserError(
            f"{type(objective).__name__} has no family of training",
            where="objective",
            do="derive it from loops.objective.PairObjective (docs/objective.md)",
        )
    found: type[Family[Objective]] = load_class(objective.family, f"{type(objective).__name__}.family")
    return found(objective)


def pad_sequences(
    sequences: Sequence[tuple[Sequence[int], Sequence[int]]], pad: int = PAD
) -> tuple[Tensor, Tensor, Tensor]:
    """(ids, attention, answer), each of shape (sequences, longest): prompts followed by their answers, and padding.

    `attention` is 1 on both, `answer` is 1 on the answers alone.
    """
    longest = max(len(prompt) + len(answer) for prompt, answer in sequences)
    ids = torch.full((len(sequences), longest), pad, dtype=torch.int64)
    attention, answers = torch.zeros_like(ids), torch.zeros_like(ids)
    for n, (prompt, answer) in enumerate(sequences):
        end = len(prompt) + len(answer)
        ids[n, :end] = torch.tensor([*prompt, *answer])
        attention[n, :end] = 1
        answers[n, len(prompt) : end] = 1
    return ids, attention, answers


def column(rows: Sequence[Row], name: str) -> Tensor:
    """A column of numbers as a tensor of shape (B,): fp32, or bool for truth values."""
    return torch.tensor([row[name] for row in rows])
