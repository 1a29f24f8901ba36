"""A number for every response of a round: log-probs, a classifier's logit, a custom reward. Both halves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol, TypedDict, TypeVar

import pyarrow as pa

from icr.base.conversation import dump_conversation, load_conversation
from icr.base.progress import Reporter
from icr.engines.precision import Precision
from icr.rewards import condition
from icr.rows import Response
from icr.work.pool import Task
from icr.work.probe import ProbeTask
from icr.work.resident import Resident
from icr.work.shards import cut_table

if TYPE_CHECKING:
    from icr.rounds.context import Context
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

KEY = [("prompt_id", pa.string()), ("lang", pa.string()), ("sample", pa.int32())]
VALUES = pa.schema([*KEY, ("value", pa.float64())])
SEQUENCES = pa.schema([*KEY, ("condition", pa.string()), ("token_ids", pa.list_(pa.int32()))])
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


class LogpsTask(Task):
    """In: SEQUENCES. Out: VALUES, sums of log-probs in nats; null: condition and response pass the model's context."""

    name: ClassVar[str] = "logps"
    lane: ClassVar[str] = "scorer"
    unit: ClassVar[tuple[str, ...]] = UNIT

    model: str
    tokenizer: str
    """One for all passes: both models see the same ids."""
    chat_template: str | None
    precision: Precision
    batch_tokens: int


def sum_logps(state: Resident, task: LogpsTask, table: pa.Table, reporter: Reporter) -> pa.Table:
    """log π(y | condition) of every row."""
    from icr.engines.models import prompt_token_ids

    tokenizer = state.tokenizer(task.tokenizer, task.chat_template)
    texts = table["condition"].to_pylist()
    ids = {text: prompt_token_ids(tokenizer, load_conversation(text)) for text in dict.fromkeys(texts)}
    prompts, responses = [ids[text] for text in texts], table["token_ids"].to_pylist()
    return _with_values(table, sum_fitting(state, task, prompts, responses, reporter))


class Scoring(Protocol):
    """What a task says of how sequences are scored."""

    @property
    def model(self) -> str: ...
    @property
    def precision(self) -> Precision: ...
    @property
    def batch_tokens(self) -> int: ...


def sum_fitting(
    state: Resident, task: Scoring, prompts: Sequence[list[int]], responses: Sequence[list[int]], reporter: Reporter
) -> list[float | None]:
    """log π(response | prompt) in nats of each; None where the two are longer than the model's context.

    Beyond it a model with learned positions has none, and one with others was never trained.
    """
    from icr.engines.context import context_length
    from icr.scoring import sequence_logprobs

    context = context_length(task.model)
    fitting = [n for n, parts in enumerate(zip(prompts, responses, strict=True)) if sum(map(len, parts)) <= context]
    model = state.scorer(task.model, task.precision)
    sums = sequence_logprobs(
        model,
        [prompts[n] for n in fitting],
        [responses[n] for n in fitting],
        batch_tokens=task.batch_tokens,
        reporter=reporter,
    )
    values: list[float | None] = [None] * len(prompts)
    for n, value in zip(fitting, sums, strict=True):
        values[n] = float(value)
    return values


def score_probe(state: Resident, task: ProbeTask, table: pa.Table, reporter: Reporter) -> pa.Table:
    """What an engine's weights are checked by."""
    from icr.scoring import sequence_logprobs

    tokenizer = state.tokenizer(task.model, task.chat_template)
    ids: list[int] = tokenizer(table["text"][0].as_py(), add_special_tokens=False)["input_ids"][: task.tokens]
    logps = sequence_logprobs(state.scorer(task.model, task.precision), [ids[:1]], [ids[1:]])
    return pa.table({"token_ids": [ids], "logp": [float(logps[0])]})


class ClassifyTask(Task):
    """In: TEXTS. Out: VALUES, the logit of a sequence classifier given the prompt as asked; null: too long to read."""

    name: ClassVar[str] = "classify"
    lane: ClassVar[str] = "scorer"
    unit: ClassVar[tuple[str, ...]] = UNIT

    model: str
    precision: Precision
    batch_tokens: int


def classify(state: Resident, task: ClassifyTask, table: pa.Table, reporter: Reporter) -> pa.Table:
    classifier = state.classifier(task.model, task.precision, task.batch_tokens)
    prompts = map(load_conversation, table["prompt"].to_pylist())
    pairs = list(zip(prompts, table["response"].to_pylist(), strict=True))
    return _with_values(table, classifier.logits(pairs, reporter))


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
    return _with_values(table, values)


def _with_values(table: pa.Table, values: Sequence[float | None]) -> pa.Table:
    return table.select([name for name, _ in KEY]).append_column("value", pa.array(values, pa.float64())).cast(VALUES)


def read_sequences(context: Context, kind: str, rows: Iterable[Scored]) -> pa.Table:
    """SEQUENCES of responses (or translations), conditioned as the reward kind asks, in the prompts' order."""
    prompts = _by_key(context)
    asked = {key: dump_conversation(condition(kind, p.lang, p.messages, p.english)) for key, p in prompts.items()}
    return pa.Table.from_pylist(
        [
            {
                "prompt_id": row["prompt_id"],
                "lang": row["lang"],
                "sample": row["sample"],
                "condition": asked[row["prompt_id"], row["lang"]],
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
