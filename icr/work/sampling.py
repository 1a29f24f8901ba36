"""Eq. 7: N responses from the policy for every prompt of every language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from icr.base.conversation import load_conversation
from icr.base.errors import UserError, some
from icr.base.files import write_table
from icr.base.progress import Reporter
from icr.engines.base import Completion, Decoding, Request, request_seed
from icr.rows import RESPONSES
from icr.work.probe import EngineTask
from icr.work.resident import Resident
from icr.work.shards import cut_table
from prompts.load import Prompt

if TYPE_CHECKING:
    from icr.work.machine import Machine
    from icr.work.runner import Counts

PROMPTS = pa.schema([("prompt_id", pa.string()), ("lang", pa.string()), ("prompt", pa.string())])
AUTO_SHARD = 128
"""Prompts a shard when the config leaves it open."""
MANY = 0.2
"""Share of a shard's answers from which on their being cut off is worth a note."""
REASONING = "</think>"
TEMPLATE_TOKENS = 512
"""Room for what a chat template puts around a prompt."""


class SampleTask(EngineTask):
    """In: PROMPTS. Out: RESPONSES, `n` a prompt."""

    name: ClassVar[str] = "sample"
    unit: ClassVar[tuple[str, ...]] = ("prompt_id", "lang")

    n: int
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    round: int
    """Enters the seeds, so that every round has its own noise."""


def sample(state: Resident, task: SampleTask, table: pa.Table, reporter: Reporter) -> pa.Table:
    """Eq. 7: y_1 … y_N ~ π_θ(·|x^ℓ), each with its own seed.

    A prompt that fills the engine's window, which is the model's context then, gets no rows: the driver counts it.
    """
    from icr.engines.stops import read_answer
    from icr.engines.templates import prompt_token_ids

    tokenizer, stops = state.tokenizer(task.model, task.template), state.stops(task.model, task.template, task.stop)
    prompts = [(p["prompt_id"], p["lang"], p["prompt"]) for p in table.to_pylist()]
    ids = [prompt_token_ids(tokenizer, load_conversation(text)) for _, _, text in prompts]
    fitting = [row for row in range(len(prompts)) if len(ids[row]) < task.engine.window]
    asked = [(row, k) for row in fitting for k in range(task.n)]
    requests = [
        Request(ids[row], request_seed(task.seed, task.round, prompts[row][1], prompts[row][0], k)) for row, k in asked
    ]
    engine = state.engine(task.model, task.engine, task.probe)
    completions = engine.generate(requests, Decoding(task.temperature, task.top_p, task.max_tokens, stops), reporter)
    texts = [read_answer(tokenizer, completion, stops) for completion in completions]
    of_lang = [(prompts[row][1], c) for (row, _), c in zip(asked, completions, strict=True)]
    note_ends(state, reporter, task, task.max_tokens, of_lang)
    note_reasoning(state, reporter, task, [(prompts[row][1], t) for (row, _), t in zip(asked, texts, strict=True)])
    rows = [
        {
            "prompt_id": prompts[row][0],
            "lang": prompts[row][1],
            "sample": k,
            "prompt": prompts[row][2],
            "response": text.strip(),
            "token_ids": completion.token_ids,
            "finish_reason": completion.finish_reason,
            "prompt_ids": ids[row],
        }
        for (row, k), completion, text in zip(asked, completions, texts, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=RESPONSES)


def find_too_long(prompts: Sequence[Prompt], responses: pa.Table) -> dict[str, list[str]]:
    """Language → ids of the prompts without responses: those that were too long.

    Raises:
        UserError: all prompts of a language are.
    """
    answered = set(zip(responses["prompt_id"].to_pylist(), responses["lang"].to_pylist(), strict=True))
    found: dict[str, list[str]] = {}
    for p in prompts:
        if (p.id, p.lang) not in answered:
            found.setdefault(p.lang, []).append(p.id)
    if whole := [lang for lang in found if not any(lang == of for _, of in answered)]:
        raise UserError(
            f"every prompt in {', '.join(whole)} is longer than the model's context",
            where="prompts",
            do="use shorter prompts, a model with a longer context, or leave the language out",
        )
    return found


def describe_too_long(too_long: Mapping[str, Sequence[str]], context: int) -> str:
    """In one line, which prompts are skipped."""
    count = sum(map(len, too_long.values()))
    names = some(f"{lang} {prompt_id}" for lang, ids in too_long.items() for prompt_id in ids)
    prompts = f"{count} prompts are" if count > 1 else "1 prompt is"
    return f"{prompts} too long for the model's context of {context} tokens and skipped: {names}"


def note_ends(
    state: Resident, reporter: Reporter, task: EngineTask, most: int, completions: Sequence[tuple[str, Completion]]
) -> None:
    """Say in which languages many of a shard's answers did not end by themselves; once, not for each round's model.

    Args:
        most: tokens of an answer.
        completions: (language, completion) each.
    """
    cut_off: list[str] = []
    for lang in dict.fromkeys(lang for lang, _ in completions):
        reasons = [completion.finish_reason for of, completion in completions if of == lang]
        cut = reasons.count("length")
        if cut >= MANY * len(reasons):
            state.keep(f"cut off {task.name} {most} {lang}", partial(cut_off.append, lang))
    if cut_off:
        reporter.note(
            f"a fifth or more of the answers were cut off after {most} tokens in {', '.join(cut_off)}; raise "
            "max_tokens, or name what should end them in sampling.stop, if they go on after their end"
        )


def note_reasoning(state: Resident, reporter: Reporter, task: EngineTask, texts: Sequence[tuple[str, str]]) -> None:
    """Say of each language, once a model, when answers have reasoning in them, which no template gave away.

    Args:
        texts: (language, answer) each.
    """
    for lang in dict.fromkeys(lang for lang, text in texts if REASONING in text):
        of_lang = [text for of, text in texts if of == lang]
        share = sum(REASONING in text for text in of_lang) / len(of_lang)
        text = f"{share:.0%} of the answers in {lang} have reasoning in them ({REASONING}), which counts as answer"
        state.keep(f"reasoning {task.name} {task.model} {lang}", partial(reporter.note, text))


def bound_tokens(texts: Sequence[str]) -> int:
    """No templated prompt has more tokens: a token is at least one byte of UTF-8.

    Args:
        texts: prompts as tables hold them; the JSON around each message of a conversation is longer than what a chat
            template puts there.
    """
    return max((len(text.encode()) for text in texts), default=0) + TEMPLATE_TOKENS


def sample_prompts(
    machine: Machine, task: SampleTask, prompts: Sequence[Prompt], folder: Path, shards: Path, label: str, size: int
) -> Counts:
    """Sample into `folder`/LANG.parquet; `shards` keeps what is finished before all is.

    Prompts that are too long for the model's context are skipped, counted and named.

    Args:
        size: prompts a shard, which on a CPU decides what is batched together.

    Raises:
        UserError: all prompts of a language are too long.
    """
    table = pa.Table.from_pylist(
        [{"prompt_id": p.id, "lang": p.lang, "prompt": p.text} for p in prompts], schema=PROMPTS
    )
    tables, counts = machine.fill(shards, task, cut_table(table, size, each=task.n), label)
    responses = pa.concat_tables(tables)
    too_long = find_too_long(prompts, responses)
    if too_long:
        machine.note(describe_too_long(too_long, task.engine.window))
        counts = {**counts, "dropped_too_long": too_long}
    languages = write_languages(responses, folder, list(dict.fromkeys(p.lang for p in prompts)))
    return {
        "backend": task.engine.backend,
        "precision": task.engine.precision,
        "responses": sum(c["responses"] for c in languages.values()),
        "tokens": sum(c["tokens"] for c in languages.values()),
        **counts,
        "languages": languages,
    }


def write_languages(table: pa.Table, folder: Path, languages: Sequence[str]) -> Mapping[str, Counts]:
    """Write LANG.parquet per language; returns counts per language."""
    counts = {}
    for lang in languages:
        of_lang = table.filter(pc.equal(table["lang"], lang))
        write_table(folder / f"{lang}.parquet", of_lang)
        counts[lang] = count_responses(of_lang)
    return counts


def count_responses(table: pa.Table) -> Counts:
    """Of RESPONSES rows: how many, their tokens, how many were cut off or are empty, their mean characters."""
    lengths = pc.utf8_length(table["response"])
    return {
        "responses": table.num_rows,
        "tokens": pc.sum(pc.list_value_length(table["token_ids"])).as_py() or 0,
        "truncated": pc.sum(pc.equal(table["finish_reason"], "length")).as_py() or 0,
        "empty": pc.sum(pc.equal(lengths, 0)).as_py() or 0,
        "mean_length": pc.mean(lengths).as_py() or 0.0,
    }
