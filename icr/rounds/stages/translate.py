"""Translations of a round's responses by the policy: the worker's half, and the resulting tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import pyarrow as pa

from icr.base.files import write_rows
from icr.base.progress import Reporter
from icr.rows import TRANSLATIONS, Response, Translation, read_responses
from icr.translation import REASONS, Frame, translate_rows
from icr.work.probe import EngineTask
from icr.work.resident import Resident
from icr.work.shards import cut_table

if TYPE_CHECKING:
    from icr.rounds.context import Context

WORK = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("lang", pa.string()),
        ("target", pa.string()),
        ("sample", pa.int32()),
        ("response", pa.string()),
        ("finish_reason", pa.string()),
    ]
)


class TranslateTask(EngineTask):
    """In: WORK. Out: TRANSLATIONS."""

    name: ClassVar[str] = "translate"
    unit: ClassVar[tuple[str, ...]] = ("prompt_id", "lang", "target")

    targets: tuple[str, ...]
    """All languages that anything is translated into: they decide how much room a text has."""
    max_tokens: int
    """Of a response."""


def translate(state: Resident, task: TranslateTask, table: pa.Table, reporter: Reporter) -> pa.Table:
    """Greedy translations of one shard."""
    tokenizer, stops = state.tokenizer(task.model, task.template), state.stops(task.model, task.template, task.stop)
    frame = Frame.of(tokenizer, task.engine.window, task.max_tokens, task.targets, stops)
    work = [(row, row["target"]) for row in table.to_pylist()]
    rows = translate_rows(frame, state.engine(task.model, task.engine, task.probe), work)
    reporter.progress(len(rows), len(rows), sum(len(row["token_ids"]) for row in rows))
    return pa.Table.from_pylist(rows, schema=TRANSLATIONS)


def translate_responses(
    context: Context, directions: Sequence[tuple[str, str]], samples: Sequence[int] = ()
) -> dict[str, dict[str, int]]:
    """Have the round's responses translated, along (from, to); the tables go to RUN/round-N/translations.

    Args:
        samples: of these numbers alone; all, where it is empty.

    Returns:
        Per file: `translations` that succeeded, and how many failed for which of REASONS.
    """
    config = context.config
    task = TranslateTask(
        model=context.policy,
        template=context.template,
        stop=tuple(config.sampling.stop),
        engine=context.engine,
        targets=tuple(sorted({target for _, target in directions})),
        max_tokens=config.sampling.max_tokens,
    )
    table = pa.Table.from_pylist(_gather(context, directions, samples), schema=WORK)
    shards = cut_table(table, context.shard_size, task.unit)
    tables, _ = context.machine.fill(context.pass_folder("translations"), task, shards, "translations")
    made: dict[str, list[Translation]] = {file_name(lang, target): [] for lang, target in directions}
    for row in (row for t in tables for row in t.to_pylist()):
        made[file_name(row["lang"], row["target"])].append(row)
    counts = {}
    for name, rows in made.items():
        write_rows(context.round.translations / f"{name}.parquet", rows, TRANSLATIONS)
        failed = {reason: sum(row["failed"] == reason for row in rows) for reason in REASONS}
        counts[name] = {"translations": len(rows) - sum(failed.values()), **failed}
    return counts


def _gather(context: Context, directions: Sequence[tuple[str, str]], samples: Sequence[int]) -> list[dict[str, object]]:
    """WORK rows in the prompts' order, of prompts that both languages have."""
    have = {(p.id, p.lang) for p in context.inputs.prompts}
    responses: dict[tuple[str, str], list[Response]] = {}
    for lang in dict.fromkeys(lang for lang, _ in directions):
        for row in read_responses(context.round.responses / f"{lang}.parquet"):
            if row["sample"] in samples or not samples:
                responses.setdefault((row["prompt_id"], lang), []).append(row)
    names = [name for name in WORK.names if name != "target"]
    return [
        {**{name: row[name] for name in names}, "target": target}  # type: ignore[literal-required]
        for p in context.inputs.prompts
        for lang, target in directions
        if lang == p.lang and (p.id, target) in have
        for row in responses.get((p.id, lang), [])
    ]


def file_name(lang: str, target: str) -> str:
    """LANG for translations into English, en-LANG for those out of it."""
    return lang if target == "en" else f"{lang}-{target}"
