"""Translations of a round's responses: the worker's part, and the tables that come of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from icr.base.files import write_rows
from icr.base.progress import EventFile
from icr.engines.open import open_engine
from icr.rows import TRANSLATIONS, Response
from icr.translation import REASONS, Frame, translate_rows
from icr.work.job import Job

if TYPE_CHECKING:
    from icr.rounds.context import Context


def translate(job: Job, index: int, events: EventFile) -> dict[str, Any]:
    """Worker task: this worker's share of the job's translations."""
    from icr.engines.models import context_length, load_tokenizer
    from icr.rounds.stages.measure import TEXTS, responses

    shards, settings = job.translation(), job.config.sampling
    todo = shards.of_worker(index, job.of)
    if not todo:
        return {}
    tokenizer = load_tokenizer(job.model, job.config.models.chat_template)
    targets = sorted({item.target for item in shards.items})
    frame = Frame.of(tokenizer, context_length(job.model), settings.max_tokens, targets)
    engine = open_engine(job.model, settings, max_model_len=frame.longest + frame.decoding.max_tokens)
    done, total = 0, sum(len(shards.part(s)) for s in todo)
    for shard in todo:
        events.progress(done, total)
        part = shards.part(shard)
        by_prompt: dict[tuple[str, str], list[Response]] = defaultdict(list)
        for row in responses(job, {(item.prompt_id, item.lang) for item in part}, TEXTS):
            by_prompt[row["prompt_id"], row["lang"]].append(row)
        work = [(row, item.target) for item in part for row in by_prompt[item.prompt_id, item.lang]]
        work = [(row, target) for row, target in work if row["sample"] in job.samples or not job.samples]
        write_rows(shards.path(shard), translate_rows(frame, engine, work), TRANSLATIONS)
        done += len(part)
    events.progress(done, total)
    return {}


def translate_responses(
    context: Context, directions: Sequence[tuple[str, str]], samples: Sequence[int] = ()
) -> dict[str, dict[str, int]]:
    """Have the round's responses translated, along (from, to); the tables go to RUN/round-N/translations.

    Args:
        samples: of these numbers alone; all, where it is empty.

    Returns:
        Per file: `translations` that succeeded, and how many failed for which of REASONS.
    """
    shared = context.shared("translations")
    ways = {"directions": list(directions), "samples": list(samples)}
    job = context.job(task="translate", model=context.policy, shared=shared, **ways)
    shards = job.translation()
    if shards.of_worker(0, 1):
        context.runner.work(job, "translations", spread=True, gpus_each=context.config.sampling.tensor_parallel)
    rows: dict[str, list[dict[str, Any]]] = {file_name(lang, target): [] for lang, target in directions}
    for row in shards.rows():
        rows[file_name(row["lang"], row["target"])].append(row)
    counts = {}
    for name, table in rows.items():
        write_rows(context.round.translations / f"{name}.parquet", table, TRANSLATIONS)
        failed = {reason: sum(row["failed"] == reason for row in table) for reason in REASONS}
        counts[name] = {"translations": len(table) - sum(failed.values()), **failed}
    return counts


def file_name(lang: str, target: str) -> str:
    """LANG for translations into English, en-LANG for those out of it."""
    return lang if target == "en" else f"{lang}-{target}"
