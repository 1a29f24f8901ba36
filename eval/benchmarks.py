"""The benchmarks, each on one model: of a round, or of `icr judge` without a run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from eval.folders import benchmark_folder, cache_path, summary_path
from eval.judges.asking import Judging
from eval.judges.open import count_cost, find_terms, name_judge, sum_costs
from eval.judges.panel import describe_panel, join_verdicts, member_folder
from eval.judges.prompts import find_prompts
from icr.base.fields import Fields
from icr.base.files import write_json
from icr.config.schema import Judge, Sampling
from icr.engines.templates import Template
from icr.work.runner import Counts
from icr.work.sampling import SampleTask, sample_prompts
from icr.work.shards import shard_size

if TYPE_CHECKING:
    from eval.mtbench.questions import Questions
    from eval.xalpaca.answers import Answer
    from icr.engines.open import EngineSettings
    from icr.work.machine import Machine


@dataclass(frozen=True)
class Evaluation:
    """One model to be measured, into one folder."""

    model: str
    """A folder or hub id; "" when its answers are in `out` already."""
    name: str
    """The model, as files for other tools name it."""
    out: Path
    languages: Sequence[str]
    template: Template
    """Of the model."""
    sampling: Sampling
    judge: Judge
    judge_models: Mapping[str, str]
    """Local judges: as `judge` names them → as a folder or hub id."""
    machine: Machine
    engine: EngineSettings | None
    """Of the model; None where nothing is sampled."""
    key: str
    """Key of all that the results depend on. Unfinished work is in folders of this name, so that work on other inputs
    or settings is never reused."""
    round: int = 0
    baseline: Path | None = None
    """The folder of answers that the model's are compared with; None where these are the baseline."""
    pairs: Path | None = None
    """The pairs of the round, for accuracy; None where there are none."""

    def judging(self, benchmark: str) -> Judging:
        """Who judges, and by which machine. Raises UserError when no model is named."""
        model, cache = self.judge_models.get(self.judge.local_model or ""), cache_path(self.out, benchmark)
        return Judging.of(self.judge, model, self.machine, self.key, cache, self.template.date)

    def ask(self, benchmark: str, ask: Callable[[Judging, Path], None]) -> Fields:
        """Have the judge, or each of several, asked by `ask`, which is given who judges and the benchmark's folder.

        Returns:
            For the summary: the judge's address, what was paid, and where several judge, what each of them says.

        Raises:
            UserError, TooManyUnscored, StageFailed: as `Judging.ask`.
        """
        panel = self.judge.members
        for name, judge in panel.items() or [("", self.judge)]:
            own = replace(self, judge=judge, out=member_folder(self.out, name)) if name else self
            judging = own.judging(benchmark)
            ask(judging, benchmark_folder(own.out, benchmark))
            judging.close()
        if not panel:
            cost = count_cost(self.judge, cache_path(self.out, benchmark))
            return {**find_terms(self.judge), "cost": cost}
        join_verdicts(self.judge, self.out, benchmark)
        caches = [(judge, cache_path(member_folder(self.out, name), benchmark)) for name, judge in panel.items()]
        written = cache_path(self.out, benchmark)  # references, by the first of them
        caches += [(caches[0][0], written)] if written.exists() else []
        costs = [count_cost(judge, cache) for judge, cache in caches]
        return {
            "cost": sum_costs([cost for cost in costs if cost]),
            "panel": describe_panel(self.judge, self.out, benchmark),
        }

    @property
    def shard_size(self) -> int:
        """Prompts a shard."""
        return shard_size(self.sampling.shard_size, self.machine.gpus)


def xalpaca(evaluation: Evaluation) -> Counts:
    """Answers to the held-out prompts against the baseline's: win rates, and AlpacaEval's own files."""
    from eval.xalpaca.alpaca_files import write_alpaca_files
    from eval.xalpaca.answers import load_baseline, read_answers
    from eval.xalpaca.pairwise import run_verdicts
    from eval.xalpaca.summary import baseline_summary, read_difficulties, summarise

    config, out = evaluation.judge, evaluation.out
    answers = out / "answers"
    answer_prompts(evaluation)
    if evaluation.baseline is None:
        summary = baseline_summary(answers)
    else:
        given = read_answers(answers)
        baseline = load_baseline(evaluation.baseline, given, evaluation.machine)
        difficulty = read_difficulties(config, _ids(evaluation, given) if config.difficulty else [])
        prompts, judge = find_prompts(config, "xalpaca"), name_judge(config)
        asked = evaluation.ask(
            "xalpaca", lambda judging, to: run_verdicts(judging, answers, baseline, to, config.orders)
        )
        summary = summarise(answers, baseline, out, judge, config.baseline, config.orders, difficulty, prompts)
        summary |= asked
        write_alpaca_files(out, baseline, evaluation.name, Path(config.baseline).name, judge)
    write_json(summary_path(out, "xalpaca"), summary)
    shutil.rmtree(answers / "shards", ignore_errors=True)
    average = summary["average"]
    return {
        "win_rate": average["win_rate"],
        "lc_win_rate": average["lc_win_rate"],
        "unscored": sum(lang["unscored"] for lang in summary["languages"].values()),
    }


def _is_answered(evaluation: Evaluation, folder: Path) -> bool:
    """Whether the answers are whole: there was a result, and only questions are asked again."""
    summarised = summary_path(evaluation.out, "xalpaca").is_file()
    return summarised and all((folder / f"{lang}.parquet").is_file() for lang in evaluation.languages)


def answer_prompts(evaluation: Evaluation) -> None:
    """The model's answers to the held-out prompts: answers/LANG.parquet, rows of `icr.rows.RESPONSES`."""
    from eval.xalpaca.answers import heldout_prompts

    folder = evaluation.out / "answers"
    if not evaluation.model or _is_answered(evaluation, folder):
        return
    config, machine, engine = evaluation.judge, evaluation.machine, evaluation.engine
    assert engine is not None
    if evaluation.sampling.backend == "auto" and engine.backend == "transformers":
        machine.note_once("vLLM is not installed: sampling with transformers' generate, which is several times slower")
    task = SampleTask(
        model=evaluation.model,
        template=evaluation.template,
        stop=tuple(evaluation.sampling.stop),
        engine=engine,
        n=1,
        temperature=config.temperature,
        top_p=config.top_p,
        max_tokens=config.max_tokens,
        seed=evaluation.sampling.seed,
        round=0,  # the same noise for every model, so that rounds differ by the policy alone
    )
    prompts = heldout_prompts(config, evaluation.languages)
    shards = folder / "shards" / evaluation.key[:16]
    sample_prompts(machine, task, prompts, folder, shards, "answers", evaluation.shard_size)


def _ids(evaluation: Evaluation, answers: dict[str, list[Answer]]) -> list[str]:
    """Of all prompts of the prompt file, in its order; without one, of the answers."""
    from eval.xalpaca.answers import heldout_prompts

    config = evaluation.judge
    heldout = heldout_prompts(config, evaluation.languages, every=True) if config.prompts else []
    return list(dict.fromkeys([p.id for p in heldout] or [a.id for of in answers.values() for a in of]))


def accuracy(evaluation: Evaluation) -> Counts:
    """How often the judge prefers what the reward chose, on pairs of the round; round 0 has none."""
    from eval.accuracy import pick_pairs, run_agreement, summarise

    if evaluation.pairs is None:
        return {}
    config, out, prompts = evaluation.judge, evaluation.out, find_prompts(evaluation.judge, "accuracy")
    picked = pick_pairs(evaluation.pairs, config.accuracy.pairs)
    asked = evaluation.ask("accuracy", lambda judging, to: run_agreement(judging, picked, to))
    summary = summarise(out / "accuracy", name_judge(config), prompts) | asked
    write_json(summary_path(out, "accuracy"), summary)
    return {"reward_accuracy": summary["average"]["accuracy"]}


def mtbench(evaluation: Evaluation) -> Counts:
    """Two-turn answers to MT-Bench's questions, each turn graded by the judge."""
    from eval.mtbench.grade import grade
    from eval.mtbench.questions import BY_JUDGE, load_questions
    from eval.mtbench.references import Writer, complete_references, incomplete
    from eval.mtbench.summary import summarise

    config, out = evaluation.judge, evaluation.out / "mtbench"
    assert config.mtbench is not None
    questions = load_questions(config.mtbench, evaluation.languages, evaluation.machine)
    answer_questions(evaluation, questions)
    cache = cache_path(evaluation.out, "mtbench")
    if config.mtbench.references == BY_JUDGE and incomplete(questions):
        writer = Writer.of(config, evaluation.judge_models, evaluation.machine, cache, evaluation.template.date)
        questions = complete_references(questions, writer, out / "references")
    prompts = find_prompts(config, "mtbench")
    asked = evaluation.ask("mtbench", lambda judging, to: grade(judging, questions, to, out / "answers"))
    summary = summarise(out, evaluation.languages, asked, prompts)
    return {"mtbench": summary["average"]["average"]}


def answer_questions(evaluation: Evaluation, questions: Questions | None = None) -> None:
    """The model's answers to MT-Bench's questions; `questions`: where they are read already."""
    from eval.mtbench.answers import answer
    from eval.mtbench.questions import load_questions
    from eval.mtbench.sampling import AnswerTask

    settings, out = evaluation.judge.mtbench, evaluation.out / "mtbench"
    if not evaluation.model:
        return
    assert settings is not None and evaluation.engine is not None
    questions = questions or load_questions(settings, evaluation.languages)
    task = AnswerTask(
        model=evaluation.model,
        template=evaluation.template,
        stop=tuple(evaluation.sampling.stop),
        engine=evaluation.engine,
        max_tokens=settings.max_tokens,
        seed=evaluation.sampling.seed,
    )
    size = evaluation.shard_size
    answer(evaluation.machine, task, questions, out, key=evaluation.key, name=evaluation.name, shard_size=size)


def nlp(evaluation: Evaluation) -> Counts:
    """lm-eval's tasks: over the rounds they show what alignment costs on other tasks."""
    from eval.nlp.run import run_nlp

    settings = evaluation.judge.nlp
    summary = run_nlp(evaluation.machine, settings, evaluation.model, evaluation.languages, evaluation.out)
    return {name: row["value"] for name, row in summary["benchmarks"].items()}


BENCHMARKS: dict[str, Callable[[Evaluation], Counts]] = {
    "xalpaca": xalpaca,
    "mtbench": mtbench,
    "accuracy": accuracy,
    "nlp": nlp,
}

ANSWERS: dict[str, Callable[[Evaluation], None]] = {"xalpaca": answer_prompts, "mtbench": answer_questions}
"""What of a benchmark can be done before a judge is asked; an evaluation without a model then goes on from it."""
