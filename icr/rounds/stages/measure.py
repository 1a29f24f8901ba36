"""A number for every response of a round: log-probs, a classifier's logit, a custom reward. Both halves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypedDict, TypeVar

import pyarrow as pa

from icr.base.conversation import dump_conversation, load_conversation
from icr.base.progress import Reporter
from icr.engines.precision import Precision
from icr.engines.templates import Template
from icr.rewards import condition
from icr.rows import Response
from icr.work.classify import KEY, TEXTS, UNIT, check_or_nothing, with_values
from icr.work.pool import Task
from icr.work.probe import EngineProbeTask, ProbeTask
from icr.work.resident import Resident
from icr.work.shards import cut_table

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from icr.rounds.context import Context
    from icr.work.machine import Machine
    from prompts.load import Prompt


class Scored(TypedDict):
    """What a scorer looks at: of a response, or of a translation."""

    prompt_id: str
    lang: str
    sample: int
    token_ids: list[int]


R = TypeVar("R", bound=Scored)
Key = tuple[str, str, int]
"""(prompt id, language, sample)"""

CONDITIONS = pa.schema([("condition", pa.string())])
ENCODED = pa.schema([("ids", pa.list_(pa.int32()))])
SEQUENCES = pa.schema([*KEY, ("condition_ids", pa.list_(pa.int32())), ("token_ids", pa.list_(pa.int32()))])
CONDITIONS_SHARD = 4096


class EncodeConditionsTask(Task):
    """In: CONDITIONS. Out: ENCODED, in the chat template. Once a round, so that all passes are given the same ids."""

    name: ClassVar[str] = "conditions"
    lane: ClassVar[str] = "scorer"

    model: str
    """Whose tokenizer."""
    template: Template


def encode_conditions(state: Resident, task: EncodeConditionsTask, table: pa.Table, reporter: Reporter) -> pa.Table:
    from icr.engines.templates import prompt_token_ids

    tokenizer = state.tokenizer(task.model, task.template)
    ids = [prompt_token_ids(tokenizer, load_conversation(text)) for text in table["condition"].to_pylist()]
    return pa.table({"ids": ids}, schema=ENCODED)


class LogpsTask(Task):
    """In: SEQUENCES. Out: VALUES, sums of log-probs in nats; null: condition and response pass the model's context."""

    name: ClassVar[str] = "logps"
    lane: ClassVar[str] = "scorer"
    unit: ClassVar[tuple[str, ...]] = UNIT

    model: str
    precision: Precision
    batch_tokens: int
    check: bool = False
    """The values only check others: where memory has no room for them they are null, with a note."""


def sum_logps(state: Resident, task: LogpsTask, table: pa.Table, reporter: Reporter) -> pa.Table:
    """log π(y | condition) of every row."""
    from icr.engines.context import context_length

    prompts, responses = table["condition_ids"].to_pylist(), table["token_ids"].to_pylist()

    def work() -> list[float | None]:
        model, context = state.scorer(task.model, task.precision, surely=task.check), context_length(task.model)
        return sum_fitting(model, context, prompts, responses, batch_tokens=task.batch_tokens, reporter=reporter)

    return with_values(table, check_or_nothing(work, table.num_rows, reporter) if task.check else work())


def sum_fitting(
    model: PreTrainedModel,
    context: int,
    prompts: Sequence[list[int]],
    responses: Sequence[list[int]],
    *,
    batch_tokens: int,
    reporter: Reporter,
) -> list[float | None]:
    """log π(response | prompt) in nats of each; None where the two are longer than the model's context.

    Beyond it a model with learned positions has none, and one with others was never trained.
    """
    from icr.scoring import sequence_logprobs

    fitting = [n for n, parts in enumerate(zip(prompts, responses, strict=True)) if sum(map(len, parts)) <= context]
    fitting_prompts, fitting_responses = [prompts[n] for n in fitting], [responses[n] for n in fitting]
    sums = sequence_logprobs(model, fitting_prompts, fitting_responses, batch_tokens=batch_tokens, reporter=reporter)
    values: list[float | None] = [None] * len(prompts)
    for n, value in zip(fitting, sums, strict=True):
        values[n] = float(value)
    return values


def score_probe(state: Resident, task: ProbeTask, table: pa.Table, reporter: Reporter) -> pa.Table:
    """What a scorer says of the text by which an engine's weights are checked."""
    from icr.scoring import sequence_logprobs

    ids = _probe_ids(state, task, table)
    logps = sequence_logprobs(state.scorer(task.model, task.precision), [ids[:1]], [ids[1:]])
    return pa.table({"token_ids": [ids], "logp": [float(logps[0])]})


def ask_engine(state: Resident, task: EngineProbeTask, table: pa.Table, reporter: Reporter) -> pa.Table:
    """What an engine says of it."""
    ids = _probe_ids(state, task, table)
    return pa.table({"token_ids": [ids], "logp": [state.engine(task.model, task.engine, task.probe).score(ids)]})


def _probe_ids(state: Resident, task: ProbeTask | EngineProbeTask, table: pa.Table) -> list[int]:
    tokenizer = state.tokenizer(task.model, task.template)
    ids: list[int] = tokenizer(table["text"][0].as_py(), add_special_tokens=False)["input_ids"]
    return ids[: task.tokens]


class CustomTask(Task):
    """In: TEXTS. Out: VALUES, what a class of the user's says of them."""

    name: ClassVar[str] = "custom"
    lane: ClassVar[str] = "scorer"
    unit: ClassVar[tuple[str, ...]] = UNIT

    reward: str
    """module:Class"""


def call_custom(state: Resident, task: CustomTask, table: pa.Table, reporter: Reporter) -> pa.Table:
    from icr.rounds.stages.own_reward import OWN, call, make_rows

    reward = state.keep(task.reward, lambda: OWN.make(task.reward))
    values = call(reward, task.reward, make_rows(table.to_pylist()))
    reporter.progress(table.num_rows, table.num_rows)
    return with_values(table, values)


def read_conditions(context: Context, kind: str) -> dict[tuple[str, str], list[int]]:
    """(prompt id, language) → the token ids that log-probs are given, as the reward kind asks."""
    task = EncodeConditionsTask(model=context.policy, template=context.template)
    return encode_prompts(context.machine, context.pass_folder("conditions"), task, kind, context.inputs.prompts)


def encode_prompts(
    machine: Machine, folder: Path, task: EncodeConditionsTask, kind: str, prompts: Iterable[Prompt]
) -> dict[tuple[str, str], list[int]]:
    """(prompt id, language) → the token ids of what `icr.rewards.condition` makes of the prompt."""
    asked = {(p.id, p.lang): dump_conversation(condition(kind, p.lang, p.messages, p.english)) for p in prompts}
    texts = list(dict.fromkeys(asked.values()))
    shards = cut_table(pa.table({"condition": texts}, schema=CONDITIONS), CONDITIONS_SHARD)
    tables, _ = machine.fill(folder, task, shards, "the reward's conditions")
    ids = dict(zip(texts, (ids for table in tables for ids in table["ids"].to_pylist()), strict=True))
    return {key: ids[text] for key, text in asked.items()}


def read_sequences(
    context: Context, conditions: Mapping[tuple[str, str], list[int]], rows: Iterable[Scored]
) -> pa.Table:
    """SEQUENCES of responses (or translations), each after its prompt's condition, in the prompts' order."""
    prompts = _by_key(context)
    return pa.Table.from_pylist(
        [
            {
                "prompt_id": row["prompt_id"],
                "lang": row["lang"],
                "sample": row["sample"],
                "condition_ids": conditions[row["prompt_id"], row["lang"]],
                "token_ids": row["token_ids"],
            }
            for row in _in_order(prompts, rows)
        ],
        schema=SEQUENCES,
    )


def read_texts(context: Context, rows: Iterable[Response]) -> pa.Table:
    """TEXTS of responses, in the prompts' order."""
    prompts = _by_key(context)
    return pa.Table.from_pylist(
        [
            {
                **row,
                "prompt": (p := prompts[row["prompt_id"], row["lang"]]).text,
                "english": dump_conversation(p.english),
            }
            for row in _in_order(prompts, rows)
        ],
        schema=TEXTS,
    )


def _by_key(context: Context) -> dict[tuple[str, str], Prompt]:
    return {(p.id, p.lang): p for p in context.inputs.prompts}


def _in_order(prompts: Mapping[tuple[str, str], Prompt], rows: Iterable[R]) -> list[R]:
    place = {key: number for number, key in enumerate(prompts)}
    return sorted(rows, key=lambda row: (place[row["prompt_id"], row["lang"]], row["sample"]))


def measure(context: Context, name: str, task: Task, table: pa.Table, label: str) -> dict[Key, float | None]:
    """One pass over a round's responses, by key; what is measured already is not measured again.

    Args:
        name: of the pass; its shards are in rewards/shards, or where runs that are compared share them.
    """
    shards = cut_table(table, context.shard_size, UNIT)
    tables, _ = context.machine.fill(context.pass_folder(name), task, shards, label)
    columns = [t.to_pydict() for t in tables]
    return {
        key: value
        for c in columns
        for *key_parts, value in zip(c["prompt_id"], c["lang"], c["sample"], c["value"], strict=True)
        for key in [(key_parts[0], key_parts[1], key_parts[2])]
    }
