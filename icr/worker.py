"""`python -m icr.worker JOB.json INDEX EVENTS`: the heavy work, in a process that gives all its memory back."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from icr.errors import UserError, explain_os_error
from icr.files import write_rows
from icr.job import Job
from icr.launch import die_with_parent
from icr.passes import classify, custom, load_scorer, logps, score
from icr.preflight import read_alignment
from icr.progress import EventFile, Sum
from icr.rundir import PAIRS

if TYPE_CHECKING:
    from eval.judge import Judge

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
    from icr.sampling import open_engine, sample_shards

    work = job.sampling()
    settings = job.config.sampling
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
    engine = open_engine(job.model, settings, max_model_len=min(context, longest + work.decoding.max_tokens))
    sample_shards(work, todo, engine, tokenizer, ids, events)
    return {}


def translate(job: Job, index: int, events: EventFile) -> dict[str, Any]:
    """The policy translates responses."""
    from icr.translation import translate

    return translate(job, index, events)


def requests(job: Job, index: int, events: EventFile) -> dict[str, Any]:
    """What training needs from its reference, before it starts: log-probs of its sequences."""
    work = job.reference()
    todo = work.of_worker(index, job.of)
    if not todo:
        return {}
    model = load_scorer(job.model, job.precision)
    progress = Sum(events, sum(len(work.part(s)) for s in todo))
    for shard in todo:
        part = work.part(shard)
        sums = score(job, model, [p for p, _ in part], [r for _, r in part], progress)
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


def verdicts(job: Job, index: int, events: EventFile) -> dict[str, Any]:
    """The judge's verdicts on the held-out answers against the baseline's."""
    from eval.answers import load_baseline, read_answers
    from eval.pairwise import run_verdicts

    out = job.evaluation
    baseline = load_baseline(job.baseline(), read_answers(out / "answers"), events)
    judge = _judge(job, "xalpaca", events)
    run_verdicts(judge, out / "answers", baseline, out, events, job.config.judge.orders)
    return _judged(judge)


def agreement(job: Job, index: int, events: EventFile) -> dict[str, Any]:
    """The judge's verdicts on pairs of the round."""
    from eval.accuracy import pick_pairs, run_agreement

    pairs = pick_pairs(job.folder.pairs, job.config.judge.accuracy.pairs)
    judge = _judge(job, "accuracy", events)
    run_agreement(judge, pairs, job.evaluation / "accuracy", events)
    return _judged(judge)


def mtbench_answers(job: Job, index: int, events: EventFile) -> dict[str, Any]:
    """The model's answers to MT-Bench's questions: this worker's share of the shards."""
    from eval.mtbench_answers import answer

    answer(job.config, job.model, job.evaluation / "mtbench", events, index, job.of)
    return {}


def mtbench_verdicts(job: Job, index: int, events: EventFile) -> dict[str, Any]:
    """The judge's references, where it is to write some, and its grades of the answers to MT-Bench's questions."""
    from eval.folders import cache_path
    from eval.mtbench import judge_answers
    from eval.mtbench_questions import load_questions

    config = job.config.judge
    assert config.mtbench is not None
    questions = load_questions(config.mtbench, job.config.prompts.languages, events)
    cache = cache_path(job.evaluation, "mtbench")
    return _judged(judge_answers(config, questions, job.evaluation / "mtbench", cache, events, job.model))


def nlp(job: Job, index: int, events: EventFile) -> dict[str, Any]:
    """lm-eval's tasks on the model: this worker's share of them."""
    from eval.nlp import run_nlp

    config = job.config
    run_nlp(config.judge.nlp, job.model, config.prompts.languages, job.evaluation, events, index, job.of)
    return {}


def _judge(job: Job, benchmark: str, events: EventFile) -> Judge:
    from eval.folders import cache_path
    from eval.judge import open_judge

    return open_judge(job.config.judge, cache_path(job.evaluation, benchmark), events, job.model)


def _judged(judge: Judge) -> dict[str, Any]:
    """Who judged, and what it has cost so far: US dollars, or None where no price is known."""
    return {"judge": judge.name, "cost": judge.cost()}


TASKS = {
    "prepare": prepare,
    "alignment": alignment,
    "sample": sample,
    "answers": sample,
    "translate": translate,
    "logps": logps,
    "classify": classify,
    "custom": custom,
    "requests": requests,
    "verdicts": verdicts,
    "agreement": agreement,
    "mtbench-answers": mtbench_answers,
    "mtbench-verdicts": mtbench_verdicts,
    "nlp": nlp,
}


def main() -> int:
    die_with_parent()
    job_path, index, events_path = sys.argv[1:]
    events = EventFile(Path(events_path))

    def work() -> dict[str, Any]:
        job = Job.model_validate_json(Path(job_path).read_text(encoding="utf-8"))
        return TASKS[job.task](job, int(index), events)

    return reported(work, events)


def reported(work: Callable[[], dict[str, Any]], events: EventFile) -> int:
    """Do a worker's work and send how it ended; returns the exit status."""
    try:
        events.send(event="done", counts=work())
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
