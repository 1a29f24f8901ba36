"""The judge stage of a round, and the same benchmarks on any model without a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.folders import summary_path
from icr.base.files import write_json
from icr.config.schema import Config
from icr.work.job import Job
from icr.work.runner import Counts, Runner
from icr.work.sampling import run_sampling

if TYPE_CHECKING:
    from eval.xalpaca.answers import Answer


@dataclass(frozen=True)
class Evaluation:
    """One model to be measured, into one folder."""

    config: Config
    model: str
    """A folder or hub id; "" when its answers lie in `out` already."""
    name: str
    """The model, as files for other tools name it."""
    out: Path
    judge_model: str | None
    """The local judge as a folder."""
    runner: Runner
    round: int = 0
    run: Path | None = None

    def job(self, **values: Any) -> Job:
        return Job(config=self.config, run=str(self.run or self.out), round=self.round, out=str(self.out), **values)


def xalpaca(evaluation: Evaluation) -> Counts:
    """Answers to the held-out prompts against the baseline's: win rates, and AlpacaEval's own files."""
    from eval.xalpaca.alpaca_files import write_alpaca_files
    from eval.xalpaca.answers import load_baseline, read_answers
    from eval.xalpaca.summary import baseline_summary, read_difficulties, summarise

    config, out = evaluation.config.judge, evaluation.out
    answers = out / "answers"
    if evaluation.model:
        job = evaluation.job(task="answers", model=evaluation.model)
        run_sampling(evaluation.runner, job, "answers", answers)
    if evaluation.round == 0 and evaluation.run is not None and config.baseline == "round-0":
        summary = baseline_summary(answers)
    else:
        job = evaluation.job(task="verdicts", model=evaluation.judge_model or "")
        verdicts = evaluation.runner.work(job, "verdicts")[0]
        given = read_answers(answers)
        baseline = load_baseline(job.baseline(), given)
        difficulty = read_difficulties(config, _ids(job, given) if config.difficulty else [])
        summary = summarise(answers, baseline, out, verdicts["judge"], config.baseline, config.orders, difficulty) | {
            "cost": verdicts["cost"]
        }
        write_alpaca_files(out, baseline, evaluation.name, Path(config.baseline).name, verdicts["judge"])
    write_json(summary_path(out, "xalpaca"), summary)
    average = summary["average"]
    return {
        "win_rate": average["win_rate"],
        "lc_win_rate": average["lc_win_rate"],
        "unscored": sum(lang["unscored"] for lang in summary["languages"].values()),
    }


def _ids(job: Job, answers: dict[str, list[Answer]]) -> list[str]:
    """Of all prompts of the prompt file, in its order; without one, of the answers."""
    heldout = job.heldout(every=True) if job.config.judge.prompts else []
    return list(dict.fromkeys([p.id for p in heldout] or [a.id for of in answers.values() for a in of]))


def accuracy(evaluation: Evaluation) -> Counts:
    """How often the judge prefers what the reward chose, on pairs of the round; round 0 has none."""
    from eval.accuracy import summarise

    if evaluation.round == 0:
        return {}
    job = evaluation.job(task="agreement", model=evaluation.judge_model or "")
    verdicts = evaluation.runner.work(job, "reward accuracy")[0]
    summary = summarise(evaluation.out / "accuracy", verdicts["judge"]) | {"cost": verdicts["cost"]}
    write_json(summary_path(evaluation.out, "accuracy"), summary)
    return {"reward_accuracy": summary["average"]["accuracy"]}


def mtbench(evaluation: Evaluation) -> Counts:
    """Two-turn answers to MT-Bench's questions, each turn graded by the judge."""
    from eval.mtbench.answers import answer_job, collect_answers
    from eval.mtbench.summary import summarise

    out, config = evaluation.out / "mtbench", evaluation.config
    if evaluation.model:
        job = answer_job(config, evaluation.model, out)
        if not job.collected:
            answers = evaluation.job(task="mtbench-answers", model=evaluation.model)
            gpus = config.sampling.tensor_parallel
            evaluation.runner.work(answers, "MT-Bench answers", spread=True, gpus_each=gpus)
        collect_answers(job, evaluation.name)
    grades = evaluation.job(task="mtbench-verdicts", model=evaluation.judge_model or "")
    judged = evaluation.runner.work(grades, "MT-Bench grades")[0]
    summary = summarise(out, config.prompts.languages, judged["cost"])
    return {"mtbench": summary["average"]["average"]}


def nlp(evaluation: Evaluation) -> Counts:
    """lm-eval's tasks: over the rounds they show what alignment costs elsewhere."""
    from eval.nlp.run import read_summary

    job = evaluation.job(task="nlp", model=evaluation.model)
    gpus = evaluation.config.sampling.tensor_parallel
    evaluation.runner.work(job, "NLP tasks", spread=True, gpus_each=gpus)
    # the worker that ended last has written the summary; several may have ended as one
    if not read_summary(evaluation.out):
        evaluation.runner.work(job, "NLP summary")
    return {name: row["value"] for name, row in read_summary(evaluation.out)["benchmarks"].items()}


BENCHMARKS: dict[str, Callable[[Evaluation], Counts]] = {
    "xalpaca": xalpaca,
    "mtbench": mtbench,
    "accuracy": accuracy,
    "nlp": nlp,
}
