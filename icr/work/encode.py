"""Worker task: prompts and answers as the token ids that a language model is trained on."""

from __future__ import annotations

from typing import ClassVar

import pyarrow as pa

from icr.base.conversation import load_conversation
from icr.base.progress import Reporter
from icr.engines.templates import Template
from icr.work.pool import Task
from icr.work.resident import Resident

ANSWERED = pa.schema([("prompt_ids", pa.list_(pa.int32())), ("response_ids", pa.list_(pa.int32()))])


class EncodeAnswersTask(Task):
    """In: `icr.work.classify.PROMPTED`. Out: ANSWERED, each answer ended as the chat template ends a turn."""

    name: ClassVar[str] = "encode-answers"
    lane: ClassVar[str] = "scorer"

    model: str
    template: Template


def encode_answers(state: Resident, task: EncodeAnswersTask, table: pa.Table, reporter: Reporter) -> pa.Table:
    from icr.engines.stops import trained_end
    from icr.engines.templates import prompt_token_ids
    from icr.engines.tokens import encode_text

    tokenizer = state.tokenizer(task.model, task.template)
    end = trained_end(tokenizer, state.stops(task.model, task.template, ()))
    prompts = [prompt_token_ids(tokenizer, load_conversation(text)) for text in table["prompt"].to_pylist()]
    answers = [[*encode_text(tokenizer, text), *end] for text in table["response"].to_pylist()]
    return pa.table({"prompt_ids": prompts, "response_ids": answers}, schema=ANSWERED)
