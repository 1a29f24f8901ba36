"""Worker tasks: the judge writes references for MT-Bench's questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, TypedDict

import pyarrow as pa

from eval.judges.open import Examiner, open_judge
from icr.base.conversation import Conversation, wrap_text
from icr.base.progress import Reporter
from icr.engines.base import Decoding, Engine, Request
from icr.engines.open import EngineSettings
from icr.engines.precision import Precision
from icr.engines.templates import Template
from icr.rows import make_schema
from icr.work.pool import Task
from icr.work.resident import Resident

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from icr.endpoint.endpoint import Ask, Endpoint

REFERENCES = [("reference_1", pa.string()), ("reference_2", pa.string())]  # "" where a turn has none
WANTED = pa.schema(
    [("id", pa.string()), ("lang", pa.string()), ("turn_1", pa.string()), ("turn_2", pa.string()), *REFERENCES]
)


class WrittenRow(TypedDict):
    """What was written for a question."""

    id: str
    reference_1: str
    reference_2: str
    why: str | None
    """None, or why one could not be written."""


WRITTEN = make_schema(WrittenRow)

Written = tuple[str, str | None]
"""A text, or "" and why there is none."""
Write = Callable[[Sequence[Conversation]], list[Written]]
"""The next turn of each conversation, at temperature 0."""


class WriteTask(Task):
    """In: WANTED. Out: WRITTEN, by an endpoint."""

    name: ClassVar[str] = "write"
    lane: ClassVar[str] = "asker"

    max_tokens: int
    examiner: Examiner


class WriteLocalTask(Task):
    """In: WANTED. Out: WRITTEN, greedily by a local model with transformers."""

    name: ClassVar[str] = "write-local"
    lane: ClassVar[str] = "scorer"

    max_tokens: int
    model: str
    template: Template
    precision: Precision


def write(state: Resident, task: WriteTask, table: pa.Table, reporter: Reporter) -> pa.Table:
    """Raises UserError when the endpoint cannot be used at all."""
    from eval.judges.endpoint import EndpointJudge

    judge = open_judge(state, task.examiner, reporter)
    assert isinstance(judge, EndpointJudge)
    return _write_both(lambda asked: write_by_endpoint(judge.endpoint, asked, task.max_tokens), table, reporter)


def write_local(state: Resident, task: WriteLocalTask, table: pa.Table, reporter: Reporter) -> pa.Table:
    """Raises UserError when the model cannot be loaded."""
    from icr.engines.context import context_length

    context = context_length(task.model)
    engine = state.engine(task.model, EngineSettings(backend="transformers", precision=task.precision, window=context))
    tokenizer, stops = state.tokenizer(task.model, task.template), state.stops(task.model, task.template, ())
    decoding = Decoding(0.0, 1.0, task.max_tokens, stops)
    return _write_both(lambda asked: write_by_engine(engine, tokenizer, asked, decoding, context), table, reporter)


def _write_both(write: Write, table: pa.Table, reporter: Reporter) -> pa.Table:
    """What is missing of both turns, the first ones before the second, which follow them."""
    rows = table.to_pylist()
    why: list[str | None] = [None] * len(rows)
    for turn in (1, 2):
        todo = [n for n, row in enumerate(rows) if not row[f"reference_{turn}"] and why[n] is None]
        asked = [next_turn((row["turn_1"], row["turn_2"]), turn, row["reference_1"]) for row in (rows[n] for n in todo)]
        for n, (text, reason) in zip(todo, write(asked) if asked else [], strict=True):
            rows[n][f"reference_{turn}"], why[n] = text, reason
        reporter.progress(turn * len(rows), 2 * len(rows))
    made = [{**row, "why": reason} for row, reason in zip(rows, why, strict=True)]
    return pa.Table.from_pylist(made, schema=WRITTEN)


def next_turn(turns: tuple[str, str], turn: int, first: str) -> Conversation:
    """What is answered by a turn's reference: the second follows the first."""
    if turn == 1:
        return wrap_text(turns[0])
    return [*wrap_text(turns[0]), {"role": "assistant", "content": first}, *wrap_text(turns[1])]


def ask_for(conversation: Conversation, max_tokens: int) -> Ask:
    """The request that a reference takes."""
    from icr.endpoint.endpoint import Ask

    return Ask(tuple((message["role"], message["content"]) for message in conversation), max_tokens)


def write_by_endpoint(endpoint: Endpoint, conversations: Sequence[Conversation], max_tokens: int) -> list[Written]:
    """Through chat completions. A kill loses nothing: the endpoint's cache has every answer."""
    from icr.endpoint.endpoint import NoAnswer

    written: list[Written] = []
    for reply in endpoint.ask([ask_for(c, max_tokens) for c in conversations], lambda more: None):
        if isinstance(reply, NoAnswer):
            written.append(("", reply.reason))
            continue
        message = reply.choices[0].message
        text = (message.content or "").strip()
        written.append(("", "refused") if message.refusal else (text, None if text else "empty answer"))
    return written


def write_by_engine(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Conversation],
    decoding: Decoding,
    context: int,
) -> list[Written]:
    """`context`: tokens of conversation and answer together."""
    from icr.engines.stops import read_answer
    from icr.engines.templates import prompt_token_ids

    assert decoding.stops is not None
    ids = [prompt_token_ids(tokenizer, c) for c in conversations]
    fitting = [n for n, own in enumerate(ids) if len(own) + decoding.max_tokens <= context]
    requests = [Request(ids[n], 0) for n in fitting]
    completions = engine.generate(requests, decoding) if requests else []
    written: list[Written] = [("", "longer than the judge's context")] * len(ids)
    for n, completion in zip(fitting, completions, strict=True):
        text = read_answer(tokenizer, completion, decoding.stops).strip()
        written[n] = (text, None if text else "empty answer")
    return written
