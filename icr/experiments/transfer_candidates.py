"""Candidates inside `icr transfer`: sampled once a target, scored once a reward model, and judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eval.benchmarks import BENCHMARKS, Evaluation
from eval.folders import verdicts_folder
from eval.judges.asking import has_failed
from eval.reward_models.scoring import short_name
from eval.standing import describe_evaluation
from eval.xalpaca.alpaca_files import model_output
from eval.xalpaca.answers import Answer, given_answers, write_answers
from icr.base.conversation import load_conversation
from icr.base.fields import Fields
from icr.base.files import read_rows, write_json
from icr.base.rundir import start_date
from icr.config.best_of_n import BestOfNConfig
from icr.config.evaluation import EvaluationConfig
from icr.config.transfer import TransferConfig, language_of
from icr.engines.templates import Template
from icr.experiments.candidate_rewards import Candidates, ClassifierReward
from icr.experiments.candidates import describe_sampling, sample_candidates, score_candidates
from icr.experiments.cells import Recorded
from icr.experiments.transfer_plan import Judging, ModelPlan, plan_candidates, policy_cells, policy_of
from icr.experiments.transfer_task import instruct, keep_inputs
from icr.work.machine import Machine
from icr.work.steps import Step
from prompts.load import Prompt

FIRST = "first"
"""In the folder of a target's candidates: the first of each prompt, in AlpacaEval's form. They are the policy's own
answers."""

SAMPLING_KEYS = {"sampling": "align.best_of_n", "template_arguments": "align.template_arguments"}
"""Keys of `icr best-of-n` → where an experiment has them."""


@dataclass(frozen=True)
class TargetCandidates:
    """The policy's candidates of every target, and their scores."""

    config: TransferConfig
    run: Path
    policy: str
    """As `icr.engines.folders.locate` gives it; with `sft`, what the policies are made from."""
    prompts: Mapping[str, Sequence[Prompt]]
    """By target."""
    machine: Machine
    training: bool = False
    """Whether they are to be trained on, by DPO."""

    def folder(self, name: str) -> Path:
        return self.run / "steps" / name

    @property
    def _prefix(self) -> str:
        return "dpo-" if self.training else ""

    def policy_of(self, place: str) -> str:
        """Who answers in a place."""
        return policy_of(self.config, place, self.policy)

    def samples_name(self, place: str) -> str:
        return f"{self._prefix}samples-{place}"

    def scores_name(self, model: ModelPlan, place: str) -> str:
        return f"{self._prefix}scores-{model.source}-on-{place}"

    def plan(self, place: str) -> BestOfNConfig:
        return plan_candidates(self.config, place, training=self.training)

    def sampling(self, place: str) -> Step:
        prompts = instruct(self.config, self.prompts[language_of(place)])
        step = describe_sampling(self.plan(place), self.policy_of(place), prompts, self.machine)
        return replace(step, elsewhere=SAMPLING_KEYS)

    def template(self, place: str) -> Template:
        config = self.plan(place)
        return Template(file=config.chat_template, arguments=config.template_arguments, date=start_date(self.run))

    def samples(self, place: str) -> Recorded:
        """The cell that samples."""
        folder, target = self.folder(self.samples_name(place)), language_of(place)

        def work(step: Step, machine: Machine) -> Fields:
            config, template, policy = self.plan(place), self.template(place), self.policy_of(place)
            asked = instruct(self.config, self.prompts[target])
            counts = sample_candidates(folder, config, policy, asked, template, step.key, machine)
            keep_inputs(self.config, folder / f"{target}.parquet", self.prompts[target])
            write_first(folder / FIRST / f"{target}.json", folder / f"{target}.parquet", config)
            return counts

        files = (f"{target}.parquet", f"{FIRST}/{target}.json")
        holds = f"candidates in {target}"
        needs = policy_cells(self.config, place)
        return Recorded(folder.name, folder, needs, self.machine, lambda: self.sampling(place), work, files, holds)

    def reward(self, model: ModelPlan) -> ClassifierReward:
        place = str(model.folder / "model")
        return ClassifierReward(model.name, place, place)

    def scoring(self, model: ModelPlan, place: str) -> Step:
        return self.reward(model).step(self.sampling(place).key, self.machine.precision("auto"))

    def scores(self, model: ModelPlan, place: str) -> Recorded:
        """The cell in which a reward model scores."""
        folder, target = self.folder(self.scores_name(model, place)), language_of(place)

        def work(step: Step, machine: Machine) -> Fields:
            of = Candidates(
                machine, self.sampling(place).key, self.policy_of(place), self.template(place),
                machine.precision("auto"), self.plan(place).chat_template,
            )  # fmt: skip
            samples = self.folder(self.samples_name(place))
            return score_candidates(folder, samples, [target], self.reward(model), of, step.key)

        needs = (model.name, self.samples_name(place))
        holds = f"scores of candidates in {target}"
        step, files = lambda: self.scoring(model, place), (f"{target}.parquet",)
        return Recorded(folder.name, folder, needs, self.machine, step, work, files, holds)

    def verdicts(
        self, judge: Judging, answers: str, label: str, target: str, generator: str, inside: str = ""
    ) -> Recorded:
        """The cell in which a judge compares answers with the policy's own; of a target's policies the organic one.

        Args:
            answers: the name of the cell that makes them.
            label: of this cell, behind the judge's name.
            generator: what the answers are from, for the judge's tables.
            inside: the folder in that cell's folder that has the answers alone.
        """
        given, folder = self.folder(answers) / inside, self.folder(f"judge-{judge.name}-{label}")
        config = self._evaluation(judge, given, target)

        def describe() -> Step:
            step = describe_evaluation(config, None, judge.models, self.machine.precision)
            return replace(step, elsewhere={"judge": "judges"})

        def work(step: Step, machine: Machine) -> Fields:
            write_answers(given_answers(given, [target], config.judge.limit), folder / "answers")
            folders = machine.folders(set(judge.models.values()), None)
            evaluation = Evaluation(
                model="",
                name=generator,
                out=folder,
                languages=[target],
                template=Template(date=start_date(self.run)),
                sampling=config.sampling,
                judge=config.judge,
                judge_models={name: folders[model] for name, model in judge.models.items()},
                machine=machine,
                engine=None,
                key=step.key,
                baseline=Path(config.judge.baseline),
            )
            counts: Fields = BENCHMARKS["xalpaca"](evaluation)
            return counts

        holds = f"verdicts on answers in {target}"
        again = lambda: has_failed(verdicts_folder(folder, "xalpaca"))  # noqa: E731
        needs = answers, f"samples-{target}"
        files, asks = ("summary.json",), judge.is_endpoint
        return Recorded(folder.name, folder, needs, self.machine, describe, work, files, holds, again, asks=asks)

    def _evaluation(self, judge: Judging, answers: Path, target: str) -> EvaluationConfig:
        """Answers against the policy's own, which are those of best of n."""
        baseline = self.folder(f"samples-{target}") / FIRST
        changes = {"baseline": str(baseline), "benchmarks": ["xalpaca"], "prompts": None}
        asked = judge.config.model_copy(update=changes)
        return EvaluationConfig(benchmark="xalpaca", model=str(answers), languages=[target], judge=asked)


def write_first(file: Path, samples: Path, config: BestOfNConfig) -> None:
    """In AlpacaEval's form, the first candidate of each prompt: the model's own answers."""
    rows = read_rows(samples, ["prompt_id", "sample", "prompt", "response", "finish_reason"])
    answers = [
        Answer(r["prompt_id"], load_conversation(r["prompt"]), r["response"], r["finish_reason"] == "length")
        for r in rows
        if r["sample"] == 0
    ]
    name, source = short_name(config.model), Path(config.prompts.path).name
    write_json(file, [model_output(answer, name, source) for answer in answers])
