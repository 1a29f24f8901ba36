"""Worker task: a model answers MT-Bench's questions, two turns each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import ClassVar

import pyarrow as pa

from eval.mtbench.questions import TEMPERATURES
from icr.base.conversation import Conversation, wrap_text
from icr.base.errors import UserError
from icr.base.progress import Reporter, Sum
from icr.engines.base import Completion, Decoding, Request, request_seed
from icr.work.probe import EngineTask
from icr.work.resident import Resident
from icr.work.sampling import note_ends

QUESTIONS = pa.schema(
    [
        ("question_id", pa.string()),
        ("key", pa.string()),  # what joins a question with its translations
        ("lang", pa.string()),
        ("category", pa.string()),
        ("turn_1", pa.string()),
        ("turn_2", pa.string()),
    ]
)
TURNS = pa.schema(
    [
        ("key", pa.string()),
        ("lang", pa.string()),
        ("turn", pa.int32()),  # 1 or 2
        ("response", pa.string()),
        ("tokens", pa.int32()),
        ("finish_reason", pa.string()),  # stop, length, NO_ROOM
    ]
)
NO_ROOM = "no room"
"""The finish reason of a second answer that the model's context had no room for. It is empty."""


class AnswerTask(EngineTask):
    """In: QUESTIONS. Out: TURNS, first turns before second ones."""

    name: ClassVar[str] = "mtbench-answers"
    max_tokens: int
    seed: int


def answer_questions(state: Resident, task: AnswerTask, table: pa.Table, reporter: Reporter) -> pa.Table:
    """The first turns and then the second ones, at each category's temperature.

    Raises:
        UserError: a question that is longer than the model's context.
    """
    from icr.engines.stops import read_answer
    from icr.engines.templates import prompt_token_ids

    tokenizer, stops = state.tokenizer(task.model, task.template), state.stops(task.model, task.template, task.stop)
    questions = table.to_pylist()
    progress = Sum(reporter, 2 * len(questions))
    rows: list[dict[str, object]] = []
    asked: list[Conversation] = [[] for _ in questions]
    for turn in (1, 2):
        for conversation, question in zip(asked, questions, strict=True):
            conversation.extend(wrap_text(question[f"turn_{turn}"]))
        ids = [prompt_token_ids(tokenizer, conversation) for conversation in asked]
        if turn == 1:
            for question, own in zip(questions, ids, strict=True):
                _refuse_too_long(question, len(own), task.engine.window)
        completions = _complete(state, task, questions, ids, turn, progress)
        texts = [read_answer(tokenizer, completion, stops) for completion in completions]
        of_lang = [(q["lang"], c) for q, c in zip(questions, completions, strict=True)]
        note_ends(state, reporter, task, task.max_tokens, of_lang)
        for conversation, question, completion, text in zip(asked, questions, completions, texts, strict=True):
            conversation.append({"role": "assistant", "content": text.strip()})
            rows.append(
                {
                    "key": question["key"],
                    "lang": question["lang"],
                    "turn": turn,
                    "response": text.strip(),
                    "tokens": len(completion.token_ids),
                    "finish_reason": completion.finish_reason,
                }
            )
    return pa.Table.from_pylist(rows, schema=TURNS)


def _refuse_too_long(question: Mapping[str, str], tokens: int, context: int) -> None:
    if tokens >= context:
        raise UserError(
            f"a question has {tokens} tokens, but the model's context is {context}",
            where=f"question {question['question_id']}, language {question['lang']}",
            do="use a model with a longer context, or remove the question",
        )


def _complete(
    state: Resident,
    task: AnswerTask,
    questions: Sequence[Mapping[str, str]],
    ids: Sequence[list[int]],
    turn: int,
    progress: Sum,
) -> list[Completion]:
    """One turn: one call for each temperature, and for each shorter room that the window leaves."""
    stops = state.stops(task.model, task.template, task.stop)
    groups: defaultdict[Decoding, list[int]] = defaultdict(list)
    completions = [Completion([], NO_ROOM) for _ in questions]
    for n, question in enumerate(questions):
        room = min(task.max_tokens, task.engine.window - len(ids[n]))
        if room > 0:
            groups[Decoding(TEMPERATURES[question["category"]], 1.0, room, stops)].append(n)
    engine = state.engine(task.model, task.engine, task.probe)
    for decoding, members in groups.items():
        # the same noise for every model, so that rounds differ by the policy alone
        seeds = [request_seed(task.seed, 0, questions[n]["lang"], questions[n]["key"], turn) for n in members]
        requests = [Request(ids[n], seed) for n, seed in zip(members, seeds, strict=True)]
        for n, completion in zip(members, engine.generate(requests, decoding), strict=True):
            completions[n] = completion
        progress.add(len(members), sum(len(completions[n].token_ids) for n in members))
    progress.add(len(questions) - sum(map(len, groups.values())), 0)
    return completions
