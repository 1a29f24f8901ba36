"""The worker tasks of the benchmarks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from icr.base.progress import EventFile
from icr.work.job import Job

if TYPE_CHECKING:
    from eval.judges.base import Judge


def verdicts(job: Job, index: int, events: EventFile) -> dict[str, Any]:
    """The judge's verdicts on the held-out answers against the baseline's."""
    from eval.xalpaca.answers import load_baseline, read_answers
    from eval.xalpaca.pairwise import run_verdicts

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
    from eval.mtbench.answers import answer

    answer(job.config, job.model, job.evaluation / "mtbench", events, index, job.of)
    return {}


def mtbench_verdicts(job: Job, index: int, events: EventFile) -> dict[str, Any]:
    """The judge's references, where it is to write some, and its grades of the answers to MT-Bench's questions."""
    from eval.folders import cache_path
    from eval.mtbench.grade import judge_answers
    from eval.mtbench.questions import load_questions

    config = job.config.judge
    assert config.mtbench is not None
    questions = load_questions(config.mtbench, job.config.prompts.languages, events)
    cache = cache_path(job.evaluation, "mtbench")
    return _judged(judge_answers(config, questions, job.evaluation / "mtbench", cache, events, job.model))


def nlp(job: Job, index: int, events: EventFile) -> dict[str, Any]:
    """lm-eval's tasks on the model: this worker's share of them."""
    from eval.nlp.run import run_nlp

    config = job.config
    run_nlp(config.judge.nlp, job.model, config.prompts.languages, job.evaluation, events, index, job.of)
    return {}


def _judge(job: Job, benchmark: str, events: EventFile) -> Judge:
    from eval.folders import cache_path
    from eval.judges.open import open_judge

    return open_judge(job.config.judge, cache_path(job.evaluation, benchmark), events, job.model)


def _judged(judge: Judge) -> dict[str, Any]:
    """Who judged, and what it has cost so far: US dollars, or None where no price is known."""
    return {"judge": judge.name, "cost": judge.cost()}
