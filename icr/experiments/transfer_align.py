"""Best of n inside `icr transfer`: candidates per target once, scores per source, best answers, verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.benchmarks import BENCHMARKS, Evaluation
from eval.evaluate import key_of_judge
from eval.folders import cache_path, verdicts_folder
from eval.judges.asking import Judging as Asking
from eval.judges.asking import has_failed
from eval.reward_models.scoring import short_name
from eval.standing import describe_evaluation
from eval.xalpaca.alpaca_files import model_output
from eval.xalpaca.answers import Answer, given_answers, write_answers
from icr.base.conversation import load_conversation
from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.files import read_rows, write_json
from icr.base.rundir import start_date
from icr.config.best_of_n import BestOfNConfig
from icr.config.evaluation import Benchmark, EvaluationConfig
from icr.config.transfer import TransferConfig
from icr.engines.templates import Template
from icr.experiments.best_answers import RESULT, write_best
from icr.experiments.candidate_rewards import Candidates, ClassifierReward
from icr.experiments.candidates import describe_sampling, sample_candidates, score_candidates
from icr.experiments.cells import Cell, Recorded
from icr.experiments.judged_candidates import judge_candidates
from icr.experiments.transfer_plan import AlignInputs, Judging, ModelPlan, plan_candidates
from icr.work.machine import Machine
from icr.work.steps import Step

XALPACA: Benchmark = "xalpaca"
WINS = "wins.json"
"""Of a judge and target: prompt id → its preference for each candidate over the first one."""
FIRST = "first"
"""In the folder of a target's candidates: the first of each prompt, in AlpacaEval's form. They are the policy's own
answers."""


@dataclass(frozen=True)
class Alignment:
    """What the cells of best of n share."""

    config: TransferConfig
    run: Path
    inputs: AlignInputs
    machine: Machine

    def folder(self, name: str) -> Path:
        return self.run / "steps" / name

    @property
    def k(self) -> int:
        assert self.config.align is not None
        best = self.config.align.best_of_n
        return best.k or best.n

    def cells(self, models: Sequence[ModelPlan]) -> list[Cell]:
        """In an order in which they can be done: all samples, all scores, all best answers, all verdicts."""
        targets = self.config.languages.targets
        both = [(model, target) for target in targets for model in models]
        judged = [(judge, model, target) for judge in self.inputs.judges for model, target in both]
        return [
            *(self._samples(target) for target in targets),
            *(self._scores(model, target) for model, target in both),
            *(self._best(model, target) for model, target in both),
            *(self._verdicts(judge, model, target) for judge, model, target in judged),
            *(self._wins(judge, target) for judge in self._judges_of_all() for target in targets),
        ]

    def _sampling(self, target: str) -> tuple[BestOfNConfig, Step]:
        config = plan_candidates(self.config, target)
        return config, describe_sampling(config, self.inputs.policy, self.inputs.prompts[target], self.machine)

    def _template(self, config: BestOfNConfig) -> Template:
        return Template(file=config.chat_template, arguments=config.template_arguments, date=start_date(self.run))

    def _samples(self, target: str) -> Recorded:
        folder = self.folder(f"samples-{target}")

        def work(step: Step) -> Fields:
            config, prompts = plan_candidates(self.config, target), self.inputs.prompts[target]
            template = self._template(config)
            counts = sample_candidates(folder, config, self.inputs.policy, prompts, template, step.key, self.machine)
            _write_first(folder, target, config)
            return counts

        files = (f"{target}.parquet", f"{FIRST}/{target}.json")
        return Recorded(
            folder.name, folder, (), lambda: self._sampling(target)[1], work, files, f"candidates in {target}"
        )

    def _reward(self, model: ModelPlan) -> ClassifierReward:
        place = str(model.folder / "model")
        return ClassifierReward(model.name, place, place)

    def _scoring(self, model: ModelPlan, target: str) -> Step:
        precision = self.machine.precision("auto")
        return self._reward(model).step(self._sampling(target)[1].key, precision)

    def _scores(self, model: ModelPlan, target: str) -> Recorded:
        folder = self.folder(f"scores-{model.source}-on-{target}")

        def work(step: Step) -> Fields:
            config, sampling = self._sampling(target)
            of = Candidates(
                self.machine, sampling.key, self.inputs.policy, self._template(config),
                self.machine.precision("auto"), config.chat_template,
            )  # fmt: skip
            samples = self.folder(f"samples-{target}")
            return score_candidates(folder, samples, [target], self._reward(model), of, step.key)

        needs = (model.name, f"samples-{target}")
        holds = f"scores of candidates in {target}"
        return Recorded(
            folder.name, folder, needs, lambda: self._scoring(model, target), work, (f"{target}.parquet",), holds
        )

    def _choosing(self, model: ModelPlan, target: str) -> Step:
        return Step("best", {"scores": self._scoring(model, target).key}, {"align.best_of_n.k": self.k})

    def _best(self, model: ModelPlan, target: str) -> Recorded:
        folder, scores = self.folder(f"best-{model.source}-{target}"), f"scores-{model.source}-on-{target}"

        def work(step: Step) -> Fields:
            config, samples = plan_candidates(self.config, target), self.folder(f"samples-{target}")
            found = write_best(folder, samples, self.folder(scores), config, self._reward(model), self.k)
            counts: Fields = found["languages"][target]
            if counts["without_answer"] == counts["prompts"]:
                what = f"no candidate in {target} has a score: all are longer than {model.name} reads"
                raise UserError(what, where="align.best_of_n", do="lower max_tokens, or raise reward_model.max_tokens")
            return counts

        files = (f"{target}.json", "answers.parquet", RESULT)
        holds = f"best answers in {target}"
        return Recorded(folder.name, folder, (scores,), lambda: self._choosing(model, target), work, files, holds)

    def _verdicts(self, judge: Judging, model: ModelPlan, target: str) -> Recorded:
        best = self.folder(f"best-{model.source}-{target}")
        folder = self.folder(f"judge-{judge.name}-{model.source}-{target}")
        config = self._evaluation(judge, best, target)

        def describe() -> Step:
            return describe_evaluation(config, None, judge.models, self.machine.precision)

        def work(step: Step) -> Fields:
            write_answers(given_answers(best, [target], config.judge.limit), folder / "answers")
            folders = self.machine.folders(set(judge.models.values()), None)
            evaluation = Evaluation(
                model="",
                name=f"{short_name(self.inputs.policy)}-best-by-{model.name}",
                out=folder,
                languages=[target],
                template=Template(date=start_date(self.run)),
                sampling=config.sampling,
                judge=config.judge,
                judge_models={name: folders[model] for name, model in judge.models.items()},
                machine=self.machine,
                engine=None,
                key=step.key,
                baseline=Path(config.judge.baseline),
            )
            counts: Fields = BENCHMARKS["xalpaca"](evaluation)
            return counts

        holds = f"verdicts on answers in {target}"
        again = lambda: has_failed(verdicts_folder(folder, "xalpaca"))  # noqa: E731
        return Recorded(folder.name, folder, (best.name,), describe, work, ("summary.json",), holds, again)

    def _judges_of_all(self) -> Sequence[Judging]:
        """Who compares every candidate."""
        assert self.config.align is not None
        return self.inputs.judges if self.config.align.judged == "all" else []

    def _wins(self, judge: Judging, target: str) -> Recorded:
        """What a judge says of all candidates in a target, which no source has a part in."""
        folder, samples = self.folder(f"wins-{judge.name}-{target}"), self.folder(f"samples-{target}")

        def describe() -> Step:
            made = {
                "candidates": self._sampling(target)[1].key,
                "judge": key_of_judge(judge.config, judge.models, XALPACA),
            }
            return Step("wins", made, {"judge.orders": judge.config.orders})

        def work(step: Step) -> Fields:
            model = judge.models.get(judge.config.local_model or "")
            located = self.machine.folders({model}, None)[model] if model else None
            date = start_date(self.run)
            asked = Asking.of(judge.config, located, self.machine, step.key, cache_path(folder, XALPACA), date)
            wins = judge_candidates(asked, samples, [target], None, folder, judge.config.orders)
            write_json(folder / WINS, wins)
            values = [value for of_prompt in wins[target].values() for value in of_prompt]
            return {"candidates": len(values), "unscored": sum(value is None for value in values)}

        again = lambda: has_failed(verdicts_folder(folder, XALPACA))  # noqa: E731
        holds = f"verdicts on candidates in {target}"
        return Recorded(folder.name, folder, (samples.name,), describe, work, (WINS,), holds, again)

    def _evaluation(self, judge: Judging, best: Path, target: str) -> EvaluationConfig:
        """The best answers against the policy's own."""
        baseline = self.folder(f"samples-{target}") / FIRST
        changes = {"baseline": str(baseline), "benchmarks": ["xalpaca"], "prompts": None}
        asked = judge.config.model_copy(update=changes)
        return EvaluationConfig(benchmark="xalpaca", model=str(best), languages=[target], judge=asked)


def _write_first(folder: Path, target: str, config: BestOfNConfig) -> None:
    """The policy's own answers: the first candidate of each prompt."""
    rows = read_rows(folder / f"{target}.parquet", ["prompt_id", "sample", "prompt", "response", "finish_reason"])
    answers = [
        Answer(r["prompt_id"], load_conversation(r["prompt"]), r["response"], r["finish_reason"] == "length")
        for r in rows
        if r["sample"] == 0
    ]
    name, source = short_name(config.model), Path(config.prompts.path).name
    write_json(folder / FIRST / f"{target}.json", [model_output(answer, name, source) for answer in answers])
