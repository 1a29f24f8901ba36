"""Greedy answers to validation rows in the middle of a training, and how near they come to the demonstrations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import torch
from trl.models.utils import unwrap_model_for_generation

from icr.engines.base import Completion, Decoding, Request
from icr.engines.context import context_length
from icr.engines.models import read_tokenizer
from icr.engines.stops import find_stops, read_answer
from icr.engines.templates import Template
from icr.engines.transformers_engine import BatchGenerator
from loops.batches import Row
from loops.data import ANSWERED
from loops.rouge import rouge_l
from loops.spec import TrainSpec

if TYPE_CHECKING:
    from loops.objective import Objective
    from loops.trainers import RoundTrainer


class GreedyAnswers:
    """The mean ROUGE-L of a model's greedy answers, over the validation rows that are marked for it."""

    def __init__(self, spec: TrainSpec, base: Path) -> None:
        """`spec.answer_tokens` is a number. Raises UserError: nothing ends the model's answers."""
        assert spec.answer_tokens is not None
        self._tokenizer = read_tokenizer(str(base))
        file = str(spec.chat_template) if spec.chat_template else None
        Template(file=file, arguments=spec.template_arguments).apply(self._tokenizer)
        self._stops = find_stops(self._tokenizer, str(base))
        self._window = context_length(str(base))
        self._decoding = Decoding(temperature=0.0, top_p=1.0, max_tokens=spec.answer_tokens)

    def __call__(self, trainer: RoundTrainer[Objective]) -> dict[str, float]:
        """Figures of a validation, to be called on every rank, each of which answers its share.

        Returns:
            `rouge_l`, from 0 to 1, and `answered`, the number of rows.
        """
        accelerator = trainer.accelerator
        rows = marked_rows(trainer.schedule.validation)[accelerator.process_index :: accelerator.num_processes]
        checkpointing = cast("dict[str, Any] | None", trainer.args.gradient_checkpointing_kwargs)
        with (
            unwrap_model_for_generation(
                trainer.model_wrapped, accelerator, gradient_checkpointing_kwargs=checkpointing
            ) as model,
            accelerator.autocast(),
        ):
            generator = BatchGenerator(model, self._tokenizer, self._stops, self._window)
            answers = generator.generate([Request(row["prompt_ids"], 0) for row in rows], self._decoding)
        values = [self._compare(row, answer) for row, answer in zip(rows, answers, strict=True)]
        own = torch.tensor([sum(values), len(values)], dtype=torch.float64, device=accelerator.device)
        total, count = accelerator.reduce(own, reduction="sum").tolist()
        return {"rouge_l": total / count, "answered": count}

    def _compare(self, row: Row, answer: Completion) -> float:
        demonstration = Completion(list(row["response_ids"]), "stop")
        texts = (read_answer(self._tokenizer, one, self._stops) for one in (demonstration, answer))
        return rouge_l(*texts)


def marked_rows(validation: pa.Table | None) -> list[Row]:
    """The rows of a schedule's validation that are to be answered, each once."""
    assert validation is not None
    rows: list[Row] = validation.to_pylist()
    return [row for row in rows if row[ANSWERED] and row["weight"]]
