"""Worker tasks of sequence classifiers: conversations as their token ids, and their logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import pyarrow as pa

from icr.base.conversation import load_conversation
from icr.base.progress import Reporter
from icr.engines.precision import Precision
from icr.engines.templates import Template
from icr.work.pool import Task
from icr.work.resident import Resident

KEY = [("prompt_id", pa.string()), ("lang", pa.string()), ("sample", pa.int32())]
VALUES = pa.schema([*KEY, ("value", pa.float64())])
TEXTS = pa.schema(
    [
        *KEY,
        ("prompt", pa.string()),
        ("english", pa.string()),
        ("response", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("finish_reason", pa.string()),
    ]
)
UNIT = ("prompt_id", "lang")
PROMPTED = pa.schema([("prompt", pa.string()), ("response", pa.string())])
READ = pa.schema([("ids", pa.list_(pa.int32())), ("segments", pa.list_(pa.int32()))])


class ReadTask(Task):
    """In: PROMPTED. Out: READ, what a classifier made from `model` reads."""

    name: ClassVar[str] = "read"
    lane: ClassVar[str] = "scorer"

    model: str
    """Whose tokenizer."""
    template: Template


def read(state: Resident, task: ReadTask, table: pa.Table, reporter: Reporter) -> pa.Table:
    from icr.engines.classifier import read_conversation
    from icr.engines.models import read_tokenizer

    tokenizer = read_tokenizer(task.model)
    task.template.apply(tokenizer)
    rows = []
    for prompt, response in zip(table["prompt"].to_pylist(), table["response"].to_pylist(), strict=True):
        rows.append(read_conversation(tokenizer, load_conversation(prompt), response))
        reporter.progress(len(rows), table.num_rows)
    segments = "token_type_ids" in tokenizer.model_input_names
    columns = {
        "ids": [[id for id, _ in row] for row in rows],
        "segments": [[segment if segments else 0 for _, segment in row] for row in rows],
    }
    return pa.table(columns, schema=READ)


class ClassifyTask(Task):
    """In: TEXTS. Out: VALUES, the logit of a sequence classifier given the prompt as asked; null: too long to read."""

    name: ClassVar[str] = "classify"
    lane: ClassVar[str] = "scorer"
    unit: ClassVar[tuple[str, ...]] = UNIT

    model: str
    template: Template
    precision: Precision
    batch_tokens: int
    check: bool = False
    """The values only check others: where memory has no room for them they are null, with a note."""


def classify(state: Resident, task: ClassifyTask, table: pa.Table, reporter: Reporter) -> pa.Table:
    prompts = map(load_conversation, table["prompt"].to_pylist())
    pairs = list(zip(prompts, table["response"].to_pylist(), strict=True))

    def work() -> list[float | None]:
        classifier = state.classifier(task.model, task.precision, task.batch_tokens, task.template, surely=task.check)
        return classifier.logits(pairs, reporter)

    return with_values(table, check_or_nothing(work, table.num_rows, reporter) if task.check else work())


def check_or_nothing(work: Callable[[], list[float | None]], rows: int, reporter: Reporter) -> list[float | None]:
    """What `work` gives, or nulls where the device has no memory for it: a check must not end what it checks."""
    import torch

    from icr.engines.memory import DoesNotFit

    try:
        return work()
    except DoesNotFit as error:
        reporter.note(f"the check of bf16 against fp32 is left out on some prompts: {error.what}")
    except torch.OutOfMemoryError:
        reporter.note("the check of bf16 against fp32 is left out on some prompts: the device's memory is full")
    torch.cuda.empty_cache()
    return [None] * rows


def with_values(table: pa.Table, values: Sequence[float | None]) -> pa.Table:
    """The keys of a table with a value each, as VALUES."""
    return table.select([name for name, _ in KEY]).append_column("value", pa.array(values, pa.float64())).cast(VALUES)
