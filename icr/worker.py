"""`python -m icr.worker JOB.json INDEX EVENTS`: the heavy work, in a process that gives all its memory back."""

from __future__ import annotations

import sys
import traceback
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from icr.errors import UserError, explain_os_error
from icr.files import write_rows
from icr.job import Job, Precision
from icr.launch import die_with_parent
from icr.preflight import read_alignment
from icr.progress import EventFile
from icr.rundir import PAIRS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOGPS = pa.schema([("prompt_id", pa.string()), ("lang", pa.string()), ("sample", pa.int32()), ("logp", pa.float64())])

SUMS = pa.schema([("logp", pa.float64())])


def prepare(job: Job, index: int, events: EventFile) -> dict[str, Any]:
    """Make every model a folder that transformers and vLLM load."""
    from icr.models import materialise

    folders = {}
    for done, name in enumerate(job.models):
        events.progress(done, len(job.models))
        folders[name] = materialise(name, job.config.models.chat_template)
    events.progress(len(job.models), len(job.models))
    return {"folders": folders}


def sample(job: Job, index: int, events: EventFile) -> dict[str, Any]:
    """Tasks "sample" and "answers": this worker's share of the shards."""
    from icr.models import context_length, load_tokenizer, prompt_token_ids
    from icr.sampling import choose_backend, open_engine, sample_shards

    work = job.sampling()
    settings = job.config.sampling
    backend = choose_backend(settings.backend)
    todo = work.shards.of_worker(index, job.of)
    if not todo:
        return {}
    tokenizer = load_tokenizer(job.model, job.config.models.chat_template)
    ids = {(p.id, p.lang): prompt_token_ids(tokenizer, p.text) for p in work.shards.items}
    longest = max(len(v) for v in ids.values())
    context = context_length(job.model)
    if longest >= context:
        worst = max(ids, key=lambda key: len(ids[key]))
        raise UserError(
            f"a prompt has {longest} tokens and the model's context is {context}",
            where=f"prompt {worst[0]}, language {worst[1]}",
            do="shorten or remove the prompt",
        )
    engine = open_engine(
        backend,
        job.model,
        max_model_len=min(context, longest + work.decoding.max_tokens),
        tensor_parallel=settings.tensor_parallel,
        gpu_memory=settings.gpu_memory,
    )
    sample_shards(work, todo, engine, tokenizer, ids, events)
    return {}


def logps(job: Job, index: int, events: EventFile) -> dict[str, Any]:
    """Sums of log-probs of the round's responses, conditioned as the reward kind says; one model in memory at once."""
    from icr.models import load_tokenizer, prompt_token_ids
    from icr.rewards import condition

    work = [(part, shards, shards.of_worker(index, job.of)) for part in job.passes for shards in [job.scoring(part)]]
    work = [(part, shards, todo) for part, shards, todo in work if todo]
    if not work:
        return {}
    tokenizer = load_tokenizer(job.passes[0].model, job.config.models.chat_template)
    kind = job.config.reward.kind
    progress = _Sum(events, sum(len(shards.part(s)) for _, shards, todo in work for s in todo) * job.config.sampling.n)
    for part, shards, todo in work:
        model = _scorer(part.model, part.precision)
        for shard in todo:
            prompts = {(p.id, p.lang): p for p in shards.part(shard)}
            asked = {
                key: prompt_token_ids(tokenizer, condition(kind, p.lang, p.text, p.english))
                for key, p in prompts.items()
            }
            rows = _responses(job, set(prompts))
            conditions = [asked[r["prompt_id"], r["lang"]] for r in rows]
            sums = _score(job, model, conditions, [r["token_ids"] for r in rows], progress)
            out = [
                {"prompt_id": r["prompt_id"], "lang": r["lang"], "sample": r["sample"], "logp": s}
                for r, s in zip(rows, sums, strict=True)
            ]
            write_rows(shards.path(shard), out, LOGPS)
        _free(model)
    return {}


class _Sum:
    """Progress of pieces, each told from its own start, as progress of the whole."""

    def __init__(self, events: EventFile, total: int) -> None:
        self._events, self._total = events, total
        self._done = self._tokens = 0
        events.progress(0, total)

    def progress(self, done: int, total: int, tokens: int = 0) -> None:
        self._events.progress(self._done + done, self._total, self._tokens + tokens)
        if done == total:
            self._done += done
            self._tokens += tokens

    def note(self, text: str) -> None:
        self._events.note(text)


def _responses(job: Job, keys: set[tuple[str, str]]) -> list[dict[str, Any]]:
    """The rows of these (prompt id, language), read without holding the whole round in memory."""
    ids_of: dict[str, set[str]] = defaultdict(set)
    for prompt_id, lang in keys:
        ids_of[lang].add(prompt_id)
    rows: list[dict[str, Any]] = []
    for lang in job.config.prompts.languages:
        if lang in ids_of:
            table = pq.read_table(
                job.folder.responses / f"{lang}.parquet",
                columns=["prompt_id", "lang", "sample", "token_ids"],
                filters=[("prompt_id", "in", sorted(ids_of[lang]))],
            )
            rows.extend(table.to_pylist())
    return rows


def requests(job: Job, index: int, events: EventFile) -> dict[str, Any]:
    """What training needs from its reference, before it starts: log-probs of its sequences."""
    work = job.reference()
    todo = work.of_worker(index, job.of)
    if not todo:
        return {}
    model = _scorer(job.model, job.precision)
    progress = _Sum(events, sum(len(work.part(s)) for s in todo))
    for shard in todo:
        part = work.part(shard)
        sums = _score(job, model, [p for p, _ in part], [r for _, r in part], progress)
        write_rows(work.path(shard), [{"logp": s} for s in sums], SUMS)
    return {}


def alignment(job: Job, index: int, events: EventFile) -> dict[str, Any]:
    """The English pairs of the alignment as token ids, each answer ended as the chat template ends a turn."""
    from icr.models import end_of_turn_id, load_tokenizer, prompt_token_ids

    tokenizer = load_tokenizer(job.model, job.config.models.chat_template)
    end = end_of_turn_id(tokenizer)
    assert job.config.alignment is not None
    texts = read_alignment(job.config.alignment.pairs)[: job.config.alignment.limit]

    def answer(text: str) -> list[int]:
        return [*tokenizer(text, add_special_tokens=False)["input_ids"], end]

    rows = [
        {
            "prompt_id": f"alignment-{number}",
            "lang": "en",
            **pair,
            "prompt_ids": prompt_token_ids(tokenizer, pair["prompt"]),
            "chosen_ids": answer(pair["chosen"]),
            "rejected_ids": answer(pair["rejected"]),
        }
        for number, pair in enumerate(texts, 1)
    ]
    write_rows(Path(job.pairs), rows, PAIRS)
    return {"pairs": len(rows)}


def _scorer(name: str, precision: Precision) -> PreTrainedModel:
    import torch

    from icr.models import load_model

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return load_model(name, dtype, "cuda" if torch.cuda.is_available() else "cpu")


def _free(model: PreTrainedModel) -> None:
    """Give the device's memory back before the next model is loaded."""
    import torch

    model.to(torch.device("meta"))  # type: ignore[arg-type]
    torch.cuda.empty_cache()


def _score(
    job: Job, model: PreTrainedModel, prompts: list[list[int]], responses: list[list[int]], reporter: Any
) -> list[float]:
    from icr.scoring import sequence_logprobs

    sums = sequence_logprobs(model, prompts, responses, batch_tokens=job.config.reward.batch_tokens, reporter=reporter)
    return [float(s) for s in sums]


def verdicts(job: Job, index: int, events: EventFile) -> dict[str, Any]:
    """The judge's verdicts on the held-out answers of this round against the baseline's."""
    from eval.answers import load_baseline, read_answers
    from eval.judge import open_judge, run_verdicts

    out = job.folder.judge
    judge = open_judge(job.config.judge, out / "cache.sqlite", events, job.model)
    baseline = load_baseline(job.baseline(), read_answers(out / "answers"), events)
    run_verdicts(judge, out / "answers", baseline, out, events)
    return {"judge": judge.name}


TASKS = {
    "prepare": prepare,
    "alignment": alignment,
    "sample": sample,
    "answers": sample,
    "logps": logps,
    "requests": requests,
    "verdicts": verdicts,
}


def main() -> int:
    die_with_parent()
    job_path, index, events_path = sys.argv[1:]
    events = EventFile(Path(events_path))
    try:
        job = Job.model_validate_json(Path(job_path).read_text(encoding="utf-8"))
        events.send(event="done", counts=TASKS[job.task](job, int(index), events))
        return 0
    except UserError as error:
        events.send(event="error", kind="user", what=str(error.what), where=error.where, do=error.do)
    except OSError as error:
        known = explain_os_error(error)
        if known is None:
            traceback.print_exc()
        events.send(event="error", kind="user" if known else "crash", text=str(known or error))
    except Exception as error:  # the process ends here: the log has the traceback, the controller the reason
        traceback.print_exc()
        events.send(event="error", kind="crash", text=f"{type(error).__name__}: {error}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
